# The readers of files against broken ones. A target is fuzz_NAME.cpp, its corpus is in corpus/NAME (make_corpus.py makes it).
# In the suite each file of the corpus runs once. With ATTN_LIBFUZZER, which needs Clang, fuzz_NAME is a program of libFuzzer that
# changes them for as long as it is told; the preset `fuzz` instruments the libraries too. README.md in this folder shows how.
option(ATTN_LIBFUZZER "Build the fuzz targets with libFuzzer, which needs Clang" OFF)

if(ATTN_LIBFUZZER)
  # Readers are in attn_io and attn_model; instrumented, the rest would take most of the time to compile.
  set_target_properties(attn PROPERTIES ATTN_NOT_SANITIZED ON)
endif()

add_custom_target(fuzz_targets)
function(attn_fuzz_test name library)
  add_executable(fuzz_${name} fuzz/fuzz_${name}.cpp)
  target_include_directories(fuzz_${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(fuzz_${name} PRIVATE attn_settings ${library})
  add_dependencies(fuzz_targets fuzz_${name})
  set(corpus ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/${name})
  if(ATTN_LIBFUZZER)
    target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
    attn_register_test(fuzz.${name} fuzz_${name} -runs=0 ${corpus})
  else()
    target_sources(fuzz_${name} PRIVATE fuzz/replay.cpp)
    attn_register_test(fuzz.${name} fuzz_${name} ${corpus})
  endif()
endfunction()

if(ATTN_BUILD_IO)
  attn_fuzz_test(npy attn::io)
  attn_fuzz_test(safetensors attn::io)
endif()
if(ATTN_BUILD_MODEL)
  attn_fuzz_test(config attn::model)
  attn_fuzz_test(tokenizer attn::model)
endif()
