/* One query looks at three keys and takes the weighted mean of their values. */
#include <attn/attn.h>
#include <stdio.h>

int main(void) {
  const float q_data[] = {1, 0}, k_data[] = {4, 0, 0, 4, 2, 2}, v_data[] = {10, 0, 0, 10, 5, 5};
  const int64_t query[] = {1, 1, 1, 2}, keys[] = {1, 1, 3, 2}; /* batch, heads, length, dim */
  float out_data[2];
  attn_tensor q, k, v, out;
  attn_dense_tensor(&q, q_data, ATTN_F32, 4, query);
  attn_dense_tensor(&k, k_data, ATTN_F32, 4, keys);
  attn_dense_tensor(&v, v_data, ATTN_F32, 4, keys);
  attn_dense_tensor(&out, out_data, ATTN_F32, 4, query);

  const attn_argument arguments[] = {
      {ATTN_ARG_Q, &q}, {ATTN_ARG_K, &k}, {ATTN_ARG_V, &v}, {ATTN_ARG_OUT, &out}};
  if (attn_attention(arguments, 4, NULL, NULL) != ATTN_OK) {
    fprintf(stderr, "%s\n", attn_last_error());
    return 1;
  }
  printf("%.3f %.3f\n", out_data[0], out_data[1]);
  return 0;
}
