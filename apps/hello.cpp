// One query looks at three keys and takes the weighted mean of their values.
#include <attn/attn.hpp>
#include <cstdio>

int main() {
  const float q[] = {1, 0}, k[] = {4, 0, 0, 4, 2, 2}, v[] = {10, 0, 0, 10, 5, 5};
  float out[2];
  attn::attention({q, {1, 1, 1, 2}}, {k, {1, 1, 3, 2}}, {v, {1, 1, 3, 2}},
                  {out, {1, 1, 1, 2}});  // batch, heads, length, dim
  std::printf("%.3f %.3f\n", out[0], out[1]);
}
