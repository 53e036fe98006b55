// The three operations of monosem/sparse/kernels.py in float32 on a CPU, each in one pass over its operands.
// Threads are those of PyTorch itself.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace {

constexpr int64_t NARROW = 64, WIDE = 128;  // columns whose sums stay in registers
constexpr int64_t TILE_FLOATS = 3 << 16;    // of a table, that may stay in a core's second cache

using at::Tensor;

void check(const Tensor& tensor, at::ScalarType type, const char* name) {
  TORCH_CHECK(tensor.device().is_cpu() && tensor.is_contiguous() && tensor.scalar_type() == type,
              name, " must be contiguous, on the CPU, of type ", type);
}

// Reading out of bounds harms the process or, worse, goes unnoticed: one pass over the places costs little beside
// the rows that are read there.
void check_within(const Tensor& places, int64_t rows, const char* name) {
  const int64_t* place = places.const_data_ptr<int64_t>();
  const int64_t entries = places.numel();
  const uint64_t last = uint64_t(rows) - 1;
  uint64_t signs = 0;  // of each place, and of what is left from it to the last
#pragma omp simd reduction(| : signs)
  for (int64_t entry = 0; entry < entries; ++entry) signs |= uint64_t(place[entry]) | (last - uint64_t(place[entry]));
  TORCH_CHECK(entries == 0 || int64_t(signs) >= 0, name, " must lie in 0..", rows - 1);
}

void check_offsets(const Tensor& offsets, int64_t entries) {
  const int64_t* start = offsets.const_data_ptr<int64_t>();
  const int64_t bags = offsets.numel() - 1;
  TORCH_CHECK(bags >= 0 && start[0] == 0 && start[bags] == entries, "offsets must go from 0 to ", entries);
  int64_t falls = 0;
#pragma omp simd reduction(+ : falls)
  for (int64_t bag = 0; bag < bags; ++bag) falls += start[bag] > start[bag + 1];
  TORCH_CHECK(falls == 0, "offsets must not fall");
}

// The k largest of one row of `width` values. Groups of columns (i, i + groups, ...) have a maximum each; the
// k-th largest of these is a bound below which none of the k largest values can lie.
struct RowTopK {
  int64_t width, k, size, groups;
  std::vector<float> maxima, ordered;
  std::vector<int32_t> candidates;

  RowTopK(int64_t width, int64_t k)
      : width(width), k(k), size(std::max<int64_t>(1, std::sqrt(double(width) / k))), groups(width / size) {
    maxima.resize(groups);
    candidates.reserve(4 * k);
  }

  float bound(const float* row) {
    std::copy(row, row + groups, maxima.begin());
    float* most = maxima.data();
    for (int64_t member = 1; member < size; ++member) {
      const float* values = row + member * groups;
#pragma omp simd
      for (int64_t group = 0; group < groups; ++group) most[group] = std::max(most[group], values[group]);
    }
    // A value that is no number compares with nothing, and gives no bound.
    const bool numbers = std::none_of(maxima.begin(), maxima.end(), [](float most) { return std::isnan(most); });
    if (groups < k || !numbers) return -std::numeric_limits<float>::infinity();
    ordered = maxima;
    std::nth_element(ordered.begin(), ordered.begin() + k - 1, ordered.end(), std::greater<float>());
    return ordered[k - 1];
  }

  void operator()(const float* row, float* values, int64_t* columns) {
    const float least = bound(row);
    candidates.clear();
    int64_t column = 0;
    for (; column + 16 <= width; column += 16) {
      int some = 0;
#pragma omp simd reduction(| : some)
      for (int64_t lane = 0; lane < 16; ++lane) some |= row[column + lane] >= least;
      if (!some) continue;
      for (int64_t lane = 0; lane < 16; ++lane)
        if (row[column + lane] >= least) candidates.push_back(column + lane);
    }
    for (; column < width; ++column)
      if (row[column] >= least) candidates.push_back(column);
    if (int64_t(candidates.size()) > k)
      std::nth_element(candidates.begin(), candidates.begin() + k - 1, candidates.end(),
                       [row](int32_t a, int32_t b) { return row[a] > row[b]; });
    // Only values that are no numbers leave fewer than k: they compare with nothing.
    for (int32_t other = 0; other < width && int64_t(candidates.size()) < k; ++other)
      if (std::isnan(row[other])) candidates.push_back(other);
    for (int64_t place = 0; place < k; ++place) {
      columns[place] = candidates[place];
      values[place] = row[candidates[place]];
    }
  }
};

std::tuple<Tensor, Tensor> topk(const Tensor& pre, int64_t k) {
  check(pre, at::kFloat, "values");
  TORCH_CHECK(pre.dim() == 2, "values must be a matrix");
  const int64_t rows = pre.size(0), width = pre.size(1);
  TORCH_CHECK(0 < k && k <= width, "k must lie in 1..width");
  Tensor values = at::empty({rows, k}, pre.options());
  Tensor columns = at::empty({rows, k}, pre.options().dtype(at::kLong));
  const float* from = pre.const_data_ptr<float>();
  float* to = values.mutable_data_ptr<float>();
  int64_t* places = columns.mutable_data_ptr<int64_t>();
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    RowTopK of_row(width, k);
    for (int64_t row = begin; row < end; ++row) of_row(from + row * width, to + row * k, places + row * k);
  });
  return {values, columns};
}

// out[0..LANES) = beta * out[0..LANES) + sum of weights[e] * table[index[e]][0..LANES), e from `begin` to `end`.
template <int64_t LANES>
void sum_rows(const float* table, int64_t stride, const int64_t* index, const float* weights, int64_t begin,
              int64_t end, float beta, float* out) {
  float sums[LANES] = {};
  if (beta != 0) {
#pragma omp simd
    for (int64_t lane = 0; lane < LANES; ++lane) sums[lane] = beta * out[lane];
  }
  for (int64_t entry = begin; entry < end; ++entry) {
    const float* row = table + index[entry] * stride;
    if (entry + 2 < end) {
      const float* soon = table + index[entry + 2] * stride;
      for (int64_t line = 0; line < LANES; line += 16) __builtin_prefetch(soon + line);
    }
    const float weight = weights[entry];
#pragma omp simd
    for (int64_t lane = 0; lane < LANES; ++lane) sums[lane] += weight * row[lane];
  }
  std::copy(sums, sums + LANES, out);
}

void sum_rows_rest(const float* table, int64_t stride, const int64_t* index, const float* weights,
                   int64_t begin, int64_t end, int64_t lanes, float beta, float* out) {
  for (int64_t lane = 0; lane < lanes; ++lane) out[lane] = beta != 0 ? beta * out[lane] : 0;
  for (int64_t entry = begin; entry < end; ++entry) {
    const float* row = table + index[entry] * stride;
    for (int64_t lane = 0; lane < lanes; ++lane) out[lane] += weights[entry] * row[lane];
  }
}

void weighted_rows(const Tensor& table, const Tensor& index, const Tensor& offsets, const Tensor& weights,
                   Tensor& out, double beta) {
  check(table, at::kFloat, "table");
  check(index, at::kLong, "index");
  check(offsets, at::kLong, "offsets");
  check(weights, at::kFloat, "weights");
  check(out, at::kFloat, "out");
  TORCH_CHECK(table.dim() == 2 && index.dim() == 1 && offsets.dim() == 1 && weights.dim() == 1 && out.dim() == 2,
              "table and out must be matrices, index, offsets and weights vectors");
  TORCH_CHECK(weights.size(0) == index.size(0), "weights and index must have one length");
  check_offsets(offsets, index.size(0));
  check_within(index, table.size(0), "index");
  const int64_t dim = table.size(1), bags = offsets.size(0) - 1;
  TORCH_CHECK(out.size(0) == bags && out.size(1) == dim, "out must have a row for each bag");
  if (dim == 0) return;
  const float* from = table.const_data_ptr<float>();
  const float* by = weights.const_data_ptr<float>();
  const int64_t *places = index.const_data_ptr<int64_t>(), *starts = offsets.const_data_ptr<int64_t>();
  float* to = out.mutable_data_ptr<float>();
  // A tile of columns of the whole table stays in the cache if one of at least NARROW columns fits there.
  int64_t tile = TILE_FLOATS / std::max<int64_t>(1, table.size(0)) / NARROW * NARROW;
  if (tile < NARROW || tile > dim) tile = dim;
  const int64_t tiles = (dim + tile - 1) / tile;
  const int64_t parts = std::min<int64_t>(bags, tiles >= at::get_num_threads() ? 1 : 16 * at::get_num_threads());
  at::parallel_for(0, tiles * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task / parts * tile, last = std::min(dim, first + tile), part = task % parts;
      for (int64_t bag = bags * part / parts; bag < bags * (part + 1) / parts; ++bag) {
        int64_t column = first;
        for (; column + WIDE <= last; column += WIDE)
          sum_rows<WIDE>(from + column, dim, places, by, starts[bag], starts[bag + 1], beta, to + bag * dim + column);
        for (; column + NARROW <= last; column += NARROW)
          sum_rows<NARROW>(from + column, dim, places, by, starts[bag], starts[bag + 1], beta, to + bag * dim + column);
        if (column < last)
          sum_rows_rest(from + column, dim, places, by, starts[bag], starts[bag + 1], last - column, beta,
                        to + bag * dim + column);
      }
    }
  });
}

Tensor row_dots(const Tensor& left, const Tensor& rows, const Tensor& right, const Tensor& columns) {
  check(left, at::kFloat, "left");
  check(right, at::kFloat, "right");
  check(rows, at::kLong, "rows");
  check(columns, at::kLong, "columns");
  TORCH_CHECK(left.dim() == 2 && right.dim() == 2 && rows.dim() == 1 && columns.dim() == 1,
              "left and right must be matrices, rows and columns vectors");
  TORCH_CHECK(left.size(1) == right.size(1), "left and right must have one width");
  TORCH_CHECK(rows.size(0) == columns.size(0), "rows and columns must have one length");
  check_within(rows, left.size(0), "rows");
  check_within(columns, right.size(0), "columns");
  const int64_t dim = left.size(1), entries = rows.size(0);
  Tensor dots = at::empty({entries}, left.options());
  const float *of_left = left.const_data_ptr<float>(), *of_right = right.const_data_ptr<float>();
  const int64_t *at_left = rows.const_data_ptr<int64_t>(), *at_right = columns.const_data_ptr<int64_t>();
  float* to = dots.mutable_data_ptr<float>();
  at::parallel_for(0, entries, 256, [&](int64_t begin, int64_t end) {
    for (int64_t entry = begin; entry < end; ++entry) {
      const float *a = of_left + at_left[entry] * dim, *b = of_right + at_right[entry] * dim;
      if (entry + 1 < end) {
        const float* soon = of_right + at_right[entry + 1] * dim;
        for (int64_t line = 0; line < dim; line += 16) __builtin_prefetch(soon + line);
      }
      float dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t lane = 0; lane < dim; ++lane) dot += a[lane] * b[lane];
      to[entry] = dot;
    }
  });
  return dots;
}

}  // namespace

TORCH_LIBRARY(MONOSEM_LIBRARY, library) {
  library.def("topk(Tensor values, int k) -> (Tensor, Tensor)");
  library.def(
      "weighted_rows(Tensor table, Tensor index, Tensor offsets, Tensor weights, Tensor(a!) out, float beta) -> ()");
  library.def("row_dots(Tensor left, Tensor rows, Tensor right, Tensor columns) -> Tensor");
}

TORCH_LIBRARY_IMPL(MONOSEM_LIBRARY, CPU, library) {
  library.impl("topk", topk);
  library.impl("weighted_rows", weighted_rows);
  library.impl("row_dots", row_dots);
}
