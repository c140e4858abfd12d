/* A program in C99 alone: it decodes step by step, with a plan, with options, and from a cache, and
   compares what it gets. Its struct and enumeration checks are those of the compiled interface. */
#include <attn/attn.h>
#include <attn/block_mask.h>
#include <attn/functions.h>
#include <attn/kv_cache.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIXED(name, condition) typedef char fixed_##name[(condition) ? 1 : -1]
FIXED(tensor, sizeof(attn_tensor) == sizeof(void*) + 8 + 2 * ATTN_MAX_RANK * 8);
FIXED(task, sizeof(attn_task) == 32);
FIXED(key_run, sizeof(attn_key_run) == 7 * 8);
FIXED(dtypes, ATTN_F32 == 1 && ATTN_BOOLEAN == 8);
FIXED(roles, ATTN_ARG_Q == 1 && ATTN_ARG_V_SCALES == 15 && ATTN_ARG_DSINKS == 23);
FIXED(statuses, ATTN_OK == 0 && ATTN_INTERNAL_ERROR == 6);

enum { heads = 2, kv_len = 7, dim = 4, num_arguments = 4 };

static void check(int right, const char* what) {
  if (right) return;
  fprintf(stderr, "%s: %s\n", what, attn_last_error());
  exit(1);
}

static attn_tensor dense(const float* data, int64_t rows) {
  const int64_t shape[] = {1, heads, rows, dim};
  attn_tensor tensor;
  check(attn_dense_tensor(&tensor, data, ATTN_F32, 4, shape) == ATTN_OK, "attn_dense_tensor");
  return tensor;
}

/* The keys from `begin` on, by the formula. */
static void expect(const float* q, const float* k, const float* v, int begin, const float* out) {
  for (int head = 0; head < heads; ++head) {
    double sum = 0, wanted[dim] = {0};
    for (int key = begin; key < kv_len; ++key) {
      double score = 0;
      for (int n = 0; n < dim; ++n)
        score += (double)q[head * dim + n] * k[(head * kv_len + key) * dim + n];
      score = exp(score / sqrt(dim));
      sum += score;
      for (int n = 0; n < dim; ++n) wanted[n] += score * v[(head * kv_len + key) * dim + n];
    }
    for (int n = 0; n < dim; ++n)
      check(fabs(out[head * dim + n] - wanted[n] / sum) < 1e-5, "a result differs");
  }
}

static int32_t hide_first_three(void* user, const attn_key_run* run, uint8_t* visible) {
  const int64_t* hidden = user;
  for (int64_t n = 0; n < run->count; ++n) visible[n] = run->key_begin + n >= *hidden;
  return 0;
}

int main(void) {
  float q_data[heads * dim], k_data[heads * kv_len * dim], v_data[heads * kv_len * dim];
  float out_data[heads * dim];
  for (int n = 0; n < heads * dim; ++n) q_data[n] = (float)((n * 7) % 5) - 2;
  for (int n = 0; n < heads * kv_len * dim; ++n) {
    k_data[n] = (float)((n * 11) % 9) / 4 - 1;
    v_data[n] = (float)((n * 5) % 13) - 6;
  }
  const attn_tensor q = dense(q_data, 1), k = dense(k_data, kv_len), v = dense(v_data, kv_len);
  const attn_tensor out = dense(out_data, 1);
  const attn_argument arguments[num_arguments] = {
      {ATTN_ARG_Q, &q}, {ATTN_ARG_K, &k}, {ATTN_ARG_V, &v}, {ATTN_ARG_OUT, &out}};

  attn_plan* plan;
  int64_t bytes;
  check(attn_plan_create(&plan, arguments, num_arguments, NULL, NULL) == ATTN_OK, "create a plan");
  check(attn_plan_workspace_size(plan, &bytes) == ATTN_OK, "workspace_size");
  void* workspace = malloc(bytes > 0 ? (size_t)bytes : 1);
  check(attn_plan_run(plan, arguments, num_arguments, workspace, bytes) == ATTN_OK, "run a plan");
  expect(q_data, k_data, v_data, 0, out_data);
  free(workspace);
  attn_plan_destroy(plan);

  attn_options* options;
  int64_t hidden = 3;
  check(attn_options_create(&options) == ATTN_OK, "create options");
  check(attn_options_set_mask_mod(options, hide_first_three, &hidden) == ATTN_OK, "set mask_mod");
  check(attn_attention(arguments, num_arguments, options, NULL) == ATTN_OK, "attention");
  expect(q_data, k_data, v_data, 3, out_data);
  check(attn_options_set_mask_mod(options, NULL, NULL) == ATTN_OK, "no mask_mod");

  attn_kv_cache* cache;
  check(attn_kv_cache_create(&cache, 1, heads, kv_len, dim, NULL) == ATTN_OK, "create a cache");
  check(attn_kv_cache_append(cache, &k, &v, NULL) == ATTN_OK, "append");
  check(attn_kv_cache_append(cache, &k, &v, NULL) == ATTN_EXHAUSTED, "a full cache");
  check(strstr(attn_last_error(), "sequence 0") != NULL, "the message names the sequence");
  const attn_argument of_step[] = {{ATTN_ARG_Q, &q}, {ATTN_ARG_OUT, &out}};
  check(attn_options_set_window(options, 4, 0) == ATTN_OK, "set a window");
  check(attn_kv_cache_attention(cache, of_step, 2, options, NULL) == ATTN_OK, "attention");
  expect(q_data, k_data, v_data, 2, out_data);
  attn_kv_cache_destroy(cache);
  attn_options_destroy(options);

  check(attn_version() == ATTN_VERSION, "the version of the library");
  printf("attn_c %s\n", attn_version_string());
  return 0;
}
