# The readers against changed files. Sanitizers see what goes wrong in them, so there it gets most of the time.
#   fuzz_NAME SECONDS SEED FILE...   the project's own driver
# Clang has a better one: with -DATTN_LIBFUZZER=ON and Clang, fuzz_NAME is libFuzzer's program, which takes a folder of samples.
option(ATTN_LIBFUZZER "Build the fuzz targets for libFuzzer, which needs Clang" OFF)
set(fuzz_seconds 1)
if(ATTN_SANITIZE)
  set(fuzz_seconds 20)
endif()

function(attn_fuzz_test name library)
  add_executable(fuzz_${name} fuzz/fuzz_${name}.cpp)
  target_include_directories(fuzz_${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(fuzz_${name} PRIVATE attn_settings ${library})
  if(ATTN_LIBFUZZER)
    target_compile_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
    target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
    return()
  endif()
  target_sources(fuzz_${name} PRIVATE fuzz/driver.cpp)
  attn_register_test(fuzz.${name} fuzz_${name} ${fuzz_seconds} 1 ${ARGN})
  set_tests_properties(fuzz.${name} PROPERTIES COST 50)  # first, or the last one runs alone
endfunction()

set(data ${PROJECT_SOURCE_DIR}/data)
set(test_data ${CMAKE_CURRENT_SOURCE_DIR}/data)
if(ATTN_BUILD_IO)
  attn_fuzz_test(npy attn::io ${data}/decode_k.npy ${data}/decode_q.npy ${data}/padded_mask.npy)
  attn_fuzz_test(safetensors attn::io ${test_data}/qwen3_tiny/model-00001-of-00002.safetensors
                 ${test_data}/qwen3_tiny/model-00002-of-00002.safetensors)
endif()
if(ATTN_BUILD_MODEL)
  set(tokenizer ${test_data}/tokenizers/tokenizer)
  attn_fuzz_test(tokenizer attn::model ${tokenizer}_small.json ${tokenizer}_small.json ${tokenizer}_gpt2.json ${tokenizer}_llama3.json
                 ${tokenizer}_qwen.json)
endif()
