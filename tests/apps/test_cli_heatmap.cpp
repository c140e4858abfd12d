// attn_demo heatmap: pictures are read back and compared with probabilities computed here; the
// parts of the drawing; refusals.
#include <attn/io.hpp>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "attn_demo/heatmap/colors.hpp"
#include "attn_demo/heatmap/labels.hpp"
#include "attn_demo/heatmap/picture.hpp"
#include "attn_demo/heatmap/terminal.hpp"
#include "drawing/font.hpp"
#include "support/png.hpp"
#include "support/program.hpp"

using namespace attn;
using namespace attn::test;
namespace demo = attn::apps::demo;
using demo::Grid;

namespace {

Pixel pixel_of(apps::Color color) { return {color.red, color.green, color.blue}; }

/// One head of three queries and keys. With --scale 1 the scores are 0, 1 and 2 in every row,
/// shifted by one from row to row.
struct Three {
  Folder folder;
  std::string inputs =
      fmt::format("heatmap --q {} --k {} --scale 1 ", folder / "q.npy", folder / "k.npy");
  std::string out = folder / "map.png";

  Three() {
    const float q[] = {0, 1, 2, 1, 2, 0, 2, 0, 1}, k[] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
    write_tensor(folder / "q.npy", TensorView(q, {1, 1, 3, 3}));
    write_tensor(folder / "k.npy", TensorView(k, {1, 1, 3, 3}));
  }
  std::string draw(const std::string& options) const {
    return fmt::format("{} --out {} {}", inputs, out, options);
  }
};

/// The probabilities of a row of Three whose scores at `seen` are visible.
double weight_of(int row, int key, int seen) {
  const auto e = [row](int j) { return std::exp((row + j) % 3); };
  double sum = 0;
  for (int j = 0; j < seen; ++j) sum += e(j);
  return e(key) / sum;
}

demo::CellArea cells_of(std::int64_t rows, std::int64_t columns) {
  demo::ProbabilityMap map;
  map.grid = Grid(rows, columns);
  return demo::cells_of(map);
}

/// The color at a cell's corner, where there are no digits.
Pixel corner(const Png& png, const demo::CellArea& cells, std::int64_t row, std::int64_t column) {
  const apps::Box box = cells.cell(row, column);
  return png.at(box.left, box.top);
}

/// Checks that bytes differ by at most this much: probabilities may differ by an ulp.
bool near(const Pixel& a, const Pixel& b, int most = 1) {
  return std::equal(a.begin(), a.end(), b.begin(),
                    [most](int x, int y) { return std::abs(x - y) <= most; });
}

std::set<Pixel> colors_of(const Png& png, const apps::Box& box) {
  std::set<Pixel> found;
  for (int y = box.top; y < box.top + box.height - 1; ++y) {
    for (int x = box.left; x < box.left + box.width - 1; ++x) found.insert(png.at(x, y));
  }
  return found;
}

const std::set<Pixel> hatched = {pixel_of(demo::hidden_color), pixel_of(demo::hatch_color)};

}  // namespace

TEST_CASE("cells have the colors of their weights, and hidden ones are hatched") {
  const Three sample;
  check_done(sample.draw("--causal"));
  const Png png = read_png(sample.out);
  REQUIRE(png.pixels.size() > 0);
  const demo::CellArea cells = cells_of(3, 3);
  CHECK(corner(png, cells, 0, 0) ==
        pixel_of(apps::map_color(1)));  // it sees only itself: the largest probability
  for (int row = 0; row < 3; ++row) {
    for (int key = 0; key < 3; ++key) {
      CAPTURE(row);
      CAPTURE(key);
      if (key > row)
        CHECK(colors_of(png, cells.cell(row, key)) == hatched);
      else
        CHECK(near(corner(png, cells, row, key),
                   pixel_of(apps::map_color(weight_of(row, key, row + 1)))));
    }
  }
}

TEST_CASE("small probabilities are not shown as hidden keys") {
  const Three sample;
  // sparsemax gives the third key of the first row probability 1, and the other visible keys 0.
  check_done(sample.draw("--normalizer sparsemax"));
  const Png png = read_png(sample.out);
  CHECK(corner(png, cells_of(3, 3), 0, 0) == pixel_of(apps::map_color(0)));
  CHECK(corner(png, cells_of(3, 3), 0, 2) == pixel_of(apps::map_color(1)));
  CHECK(std::none_of(png.pixels.begin(), png.pixels.end(),
                     [](const Pixel& pixel) { return hatched.count(pixel) > 0; }));

  const std::string ninf = "--causal-offset -3";  // no key is visible
  check_done(sample.draw(ninf + " --scale-colors log"));
  const Png hidden = read_png(sample.out);
  for (int n = 0; n < 9; ++n)
    CHECK(colors_of(hidden, cells_of(3, 3).cell(n / 3, n % 3)) == hatched);
}

TEST_CASE("one head of many, with all that a call has") {
  const Sample sample;
  const Tensor additive = random_tensor({2, 4, 3, 5}, 4), slopes = random_tensor({4}, 5),
               sinks = random_tensor({4}, 6);
  const std::int64_t lengths[] = {5, 4};
  const TensorView kv_lens(lengths, {2});
  AttentionTensors tensors;
  tensors.q = sample.q.view();
  tensors.k = sample.k.view();
  tensors.mask = additive.view();
  tensors.alibi_slopes = slopes.view();
  tensors.sinks = sinks.view();
  tensors.kv_lens = kv_lens;
  Tensor weights(DType::f64, {2, 4, 3, 5});
  reference_scores(tensors, {.softcap = 2.f, .causal = Causal::bottom_right()}, ScoreStage::weights,
                   weights.view());

  const std::string out = sample.folder / "map.png";
  const std::string command = fmt::format(
      "heatmap --q {} --k {} --mask {} --alibi {} --sinks {} --kv-lens {} --softcap 2 --causal "
      "--out {}",
      sample.folder / "q.npy", sample.folder / "k.npy", sample.file("mask.npy", additive.view()),
      sample.file("slopes.npy", slopes.view()), sample.file("sinks.npy", sinks.view()),
      sample.file("lens.npy", kv_lens), out);
  for (const std::int64_t head : {0, 1, 3}) {
    check_done(fmt::format("{} --batch 1 --head {}", command, head));
    const Png png = read_png(out);
    REQUIRE(png.pixels.size() > 0);
    const double* const own = weights.data<double>() + (4 + head) * 15;
    const double largest = *std::max_element(own, own + 15);
    for (std::int64_t n = 0; n < 15; ++n) {
      const bool hidden =
          n % 5 >= 4 ||
          n % 5 > n / 5 + 4 - 3;  // hidden by the length, and by the causal mask among the rest
      CAPTURE(n);
      const Pixel pixel = corner(png, cells_of(3, 5), n / 5, n % 5);
      if (hidden)
        CHECK(hatched.count(pixel) == 1);
      else
        CHECK(near(pixel, pixel_of(apps::map_color(own[n] / largest))));
    }
  }
  // All heads are on one page, and the bytes are the same each time.
  check_done(command + " --head all");
  const std::string bytes = bytes_of(out);
  CHECK(read_png(out).pixels.size() > 0);
  fs::remove(out);
  check_done(command + " --head all");
  CHECK(bytes_of(out) == bytes);
}

TEST_CASE("in the terminal, without colors") {
  const Three sample;
  // Eight characters stand for 0 to the largest probability, 1. The rows are 0.27 0.73 and 0.67
  // 0.09 0.24.
  const Ran ran = attn_demo(sample.inputs + "--causal --labels 'a, b,\xc3\xa9'");
  CHECK(ran.err == "");
  CHECK(ran.code == 0);
  CHECK(ran.out ==
        "attention probabilities, head 0: queries downwards, keys to the right\n"
        "              \\\n"
        "              x\n"
        "              c\n"
        "              3\n"
        "              \\\n"
        "              x\n"
        "            \xc2\xb7 a\n"
        "          a b 9\n"
        "       a |@@....|\n"
        "      \xc2\xb7"
        "b |==%%..|\n"
        "\\xc3\\xa9 |%%  --|\n"
        "0 [ -=+*%#@] 1   .. hidden\n");
  const Ran both = attn_demo(sample.draw("--terminal --title mine"));
  CHECK(both.out.starts_with("mine: "));
  CHECK(both.out.find("hidden") == std::string::npos);
  CHECK(read_png(sample.out).pixels.size() > 0);
}

TEST_CASE("in the terminal, with colors") {
  demo::ProbabilityMap map;
  map.grid = Grid(100, 100);
  map.grid.probabilities[0] = 0.5f;
  map.grid.hidden[1] = 1;
  map.grid.hidden[9999] = 1;
  const demo::ColorScale scale(demo::ScaleKind::linear, {&map, 1});
  const std::string text = demo::terminal_map(map, scale, {true, 60});
  const auto background = [](apps::Color c) {
    return fmt::format("\033[48;2;{:03};{:03};{:03}m", c.red, c.green, c.blue);
  };
  CHECK(text.find(background(apps::map_color(1))) != std::string::npos);
  CHECK(text.find(background(apps::map_color(0))) != std::string::npos);
  CHECK(text.find("each cell: the largest of 3 x 4 probabilities\n") != std::string::npos);
  // A block is drawn as hidden only if all its keys are. The last block, of one row and four keys,
  // has three visible keys.
  CHECK(text.find("//") == text.rfind("//"));  // in the legend
}

TEST_CASE("blocks have their largest weight") {
  Grid grid(5, 7);
  const Tensor numbers = random_tensor({5, 7}, 9);
  for (std::size_t n = 0; n < 35; ++n) {
    grid.probabilities[n] = std::abs(numbers.data<float>()[n]);
    grid.hidden[n] = n % 7 < 3 && n / 7 < 2;
  }
  grid.probabilities[2 * 7 + 4] = NAN;  // neither the first nor the last of its block
  const Grid small = demo::reduced(grid, {2, 3});
  REQUIRE(small.rows == 3);
  REQUIRE(small.columns == 3);
  for (std::int64_t row = 0; row < 3; ++row) {
    for (std::int64_t column = 0; column < 3; ++column) {
      std::vector<float> seen;
      for (std::int64_t n = 0; n < 35; ++n) {
        const bool inside = n / 7 / 2 == row && n % 7 / 3 == column;
        if (inside && grid.hidden[static_cast<std::size_t>(n)] == 0)
          seen.push_back(grid.probabilities[static_cast<std::size_t>(n)]);
      }
      CHECK(small.is_hidden(row, column) == seen.empty());
      if (row == 1 && column == 1)
        CHECK(std::isnan(small.probability(row, column)));
      else if (!seen.empty())
        CHECK(small.probability(row, column) == *std::max_element(seen.begin(), seen.end()));
    }
  }
}

TEST_CASE("the color map grows lighter all the way, and what is not on it differs from all of it") {
  const auto brightness = [](apps::Color c) { return 299 * c.red + 587 * c.green + 114 * c.blue; };
  const auto distance = [](apps::Color a, apps::Color b) {
    return std::abs(a.red - b.red) + std::abs(a.green - b.green) + std::abs(a.blue - b.blue);
  };
  for (int n = 0; n <= 100; ++n) {
    const apps::Color color = apps::map_color(n / 100.);
    if (n > 0) CHECK(brightness(color) > brightness(apps::map_color((n - 1) / 100.)));
    for (const apps::Color other : {demo::hidden_color, demo::hatch_color, demo::nan_color})
      CHECK(distance(color, other) > 90);
  }
}

TEST_CASE("color scales") {
  demo::ProbabilityMap map;
  map.grid = Grid(1, 5);
  map.grid.probabilities = {0, 1e-9f, 1e-3f, 1e-1f, 5};
  map.grid.hidden = {0, 0, 0, 0, 1};  // what is hidden does not count
  const demo::ColorScale linear(demo::ScaleKind::linear, {&map, 1}),
      logarithmic(demo::ScaleKind::logarithmic, {&map, 1});
  CHECK(linear.position(0.1f) == 1);
  CHECK(linear.position(0.05f) == doctest::Approx(0.5));
  CHECK(linear.position(0) == 0);
  CHECK(std::isnan(linear.position(NAN)));
  // The scale reaches six decades below 0.1.
  CHECK(logarithmic.position(0.1f) == 1);
  CHECK(logarithmic.position(1e-3f) == doctest::Approx(4. / 6));
  CHECK(logarithmic.position(1e-9f) == 0);
  CHECK(logarithmic.position(0) == 0);
  for (const demo::ColorScale& scale : {linear, logarithmic}) {
    const auto ticks = scale.ticks();
    CHECK(ticks.size() >= 4);
    CHECK(ticks.front().first == 0);
    CHECK(ticks.back().first == 1);
    CHECK(ticks.back().second == "0.1");
    CHECK(std::is_sorted(ticks.begin(), ticks.end()));
  }
  CHECK(logarithmic.ticks().front().second == "<= 1e-07");
}

TEST_CASE("every letter has its own glyph") {
  std::set<std::vector<bool>> glyphs;
  std::string letters = {apps::ellipsis, apps::middle_dot, apps::times_sign};
  for (char letter = ' '; letter <= '~'; ++letter) letters += letter;
  for (const char letter : letters) {
    std::vector<bool> pixels;
    for (int n = 0; n < apps::glyph_width * apps::glyph_height; ++n) {
      pixels.push_back(apps::glyph_pixel(letter, n % apps::glyph_width, n / apps::glyph_width));
    }
    CHECK((std::count(pixels.begin(), pixels.end(), true) == 0) == (letter == ' '));
    glyphs.insert(pixels);
  }
  CHECK(glyphs.size() == letters.size());
}

TEST_CASE("labels") {
  using Labels = std::vector<std::string>;
  CHECK(demo::readable(" a\n\t\r\x01\xc3\x7f~") ==
        std::string{apps::middle_dot} + "a\\n\\t\\r\\x01\\xc3\\x7f~");
  CHECK(demo::readable("") == "");
  CHECK(demo::readable_title("a b\n\x85") == "a b\\n\\x85");
  CHECK(demo::shortened("abcd", 4) == "abcd");
  CHECK(demo::shortened("abcde", 4) == std::string("abc") + apps::ellipsis);
  CHECK(demo::comma_labels("a,,b") == Labels{"a", "", "b"});
  CHECK(demo::line_labels("a\n\nb,c\n") == Labels{"a", "", "b,c"});
  CHECK(demo::utf8("a\xb7\x85") == "a\xc2\xb7\xe2\x80\xa6");

  const auto rows = [](const Labels& labels, const Labels& keys) {
    return demo::axis_labels({"--labels", labels, keys}, 2, 3).rows;
  };
  const auto columns = [](const Labels& labels, const Labels& keys) {
    return demo::axis_labels({"--labels", labels, keys}, 2, 3).columns;
  };
  CHECK(rows({"a", "b", "c"}, {}) == Labels{"b", "c"});
  CHECK(columns({"a", "b", "c"}, {}) == Labels{"a", "b", "c"});
  CHECK(rows({"x", "y"}, {}) == Labels{"x", "y"});
  CHECK(columns({"x", "y"}, {}) == Labels{});
  CHECK(rows({"x", "y"}, {"a", "b", "c"}) == Labels{"x", "y"});
  CHECK(columns({"x", "y"}, {"a", "b", "c"}) == Labels{"a", "b", "c"});
  CHECK(rows({}, {"a", "b", "c"}) == Labels{});
}

TEST_CASE("pictures of any shape hold their cells") {
  for (const Dims& shape : {Dims{1, 1}, Dims{1, 40}, Dims{40, 1}, Dims{64, 64}, Dims{577, 577},
                            Dims{3, 1000}, Dims{961, 2}, Dims{2000, 1}, Dims{1, 100000}}) {
    CAPTURE(shape.to_string());
    demo::ProbabilityMap map;
    map.grid = Grid(shape[0], shape[1]);
    map.grid.probabilities.back() = 0.25f;
    map.title = "title";
    const demo::ColorScale scale(demo::ScaleKind::linear, {&map, 1});
    const demo::CellArea cells = demo::cells_of(map);
    const apps::Canvas canvas = demo::draw_map(map, scale);
    CHECK(canvas.width() >= cells.left + cells.width());
    CHECK(canvas.height() >= cells.top + cells.height());
    CHECK(canvas.width() < 1400);
    CHECK(canvas.height() < 1400);
    CHECK(cells.width() >= 24);
    CHECK(cells.height() >= 24);
    const apps::Box last = cells.cell(cells.rows - 1, cells.columns - 1);
    CHECK(canvas.at(last.left, last.top) == apps::map_color(1));
    const demo::ProbabilityMap two[] = {map, map};
    CHECK(demo::draw_maps(two, scale, "all").width() > 0);
  }
}

TEST_CASE("heatmap refuses what it cannot draw") {
  const Three sample;
  const float empty[] = {0};
  write_tensor(sample.folder / "none.npy", TensorView(empty, {1, 1, 0, 3}));
  const Names names = sample.folder.names();
  const auto check = [&](const std::string& arguments, const std::string& fault) {
    CAPTURE(arguments);
    check_refused_with(attn_demo(arguments), fault);
    CHECK(sample.folder.names() == names);
  };
  check("heatmap --q " + sample.folder / "q.npy", "--k is required");
  check(sample.draw("--head 1"), "--head is \"1\"; it needs an integer in 0..0");
  check(sample.draw("--head -1"), "--head");
  check(sample.draw("--head every"), "--head");
  check(sample.draw("--batch 1"), "--batch");
  check(sample.draw("--labels a,b"), "--labels has 2 labels; it needs 3, one for each query");
  check(sample.draw("--key-labels a,b,c,d"), "--key-labels has 4 labels; it needs 3");
  check(sample.draw("--tokens " + sample.folder / "missing.txt"), "missing.txt");
  check(sample.draw("--tokens " + sample.folder / "."), "cannot be read");
  check(sample.draw("--tokens x --labels a,b,c"), "--labels");
  check(sample.draw("--labels a,b,c --head all"), "no room for labels");
  check(sample.draw("--scale-colors cubic"), "one of linear, log");
  check(sample.draw("--kernel naive"), "--kernel");
  check(sample.draw("--softcap 0"), "--softcap");
  check(sample.inputs + "--out " + sample.folder / "map.jpg", ".png");
  check(sample.inputs + "--out " + sample.folder / "nowhere/map.png", "cannot be written");
  fs::create_directory(sample.folder / "taken.png");
  check_refused_with(attn_demo(sample.inputs + "--out " + sample.folder / "taken.png"),
                     "cannot be written");
  fs::remove(sample.folder / "taken.png");
  check(
      fmt::format("heatmap --q {} --k {}", sample.folder / "missing.npy", sample.folder / "k.npy"),
      "missing.npy");
  check(fmt::format("heatmap --q {} --k {}", sample.folder / "none.npy", sample.folder / "k.npy"),
        "no probabilities to draw");
  check(sample.draw("--mask " + sample.folder / "none.npy"), "mask");
}
