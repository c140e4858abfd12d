# attn_c, the C interface: always a shared library, which contains the core library where that is
# static. Whatever it uses, a program links nothing else.
set(attn_c_sources
  capi/status.cpp capi/tensors.cpp capi/options.cpp capi/attention.cpp capi/block_mask.cpp
  capi/kv_cache.cpp capi/functions.cpp)
add_library(attn_c SHARED ${attn_c_sources})
add_library(attn::attn_c ALIAS attn_c)
target_include_directories(attn_c
  PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
         $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
  PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(attn_c PRIVATE $<BUILD_INTERFACE:attn_settings> attn)

set(version_script ${CMAKE_CURRENT_LIST_DIR}/exports.map)
# The number of the SONAME changes only when programs have to be compiled again (CONTRIBUTING.md).
set_target_properties(attn_c PROPERTIES
  VERSION ${PROJECT_VERSION} SOVERSION 0 INSTALL_RPATH $ORIGIN
  CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON DEFINE_SYMBOL "")
if(NOT APPLE)
  # The library's threads run its code as long as the process lives, so that it is never unloaded.
  target_link_options(attn_c PRIVATE -Wl,--version-script=${version_script} -Wl,-z,nodelete)
  set_target_properties(attn_c PROPERTIES LINK_DEPENDS ${version_script})
endif()

# A program in C99 that is given nothing but attn_c.
function(attn_add_c_program name source)
  add_executable(${name} ${source})
  set_target_properties(${name} PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
  target_compile_options(${name} PRIVATE
    -pedantic -Wall -Wextra $<$<BOOL:${ATTN_WARNINGS_AS_ERRORS}>:-Werror>)
  target_link_libraries(${name} PRIVATE attn_c)
  if(ATTN_SANITIZE)  # The program has to bring the sanitizer's library, of the same compiler.
    set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
    target_link_options(${name} PRIVATE -fsanitize=${ATTN_SANITIZE})
  endif()
endfunction()
