# The symbols that the libraries export, and both kinds of each library.
#
# All code is compiled with hidden visibility, except what include/attn marks with ATTN_API
# (export.hpp). Instantiations of templates of the standard library and of fmt stay visible
# nevertheless; a version script hides them.
#
# The objects are position-independent in a static library too. It may become part of another shared
# library, such as a Python module, and both kinds are made from one set of objects. With hidden
# visibility this does not change the code of internal functions. No function of the library is
# replaced at load time, so -fno-semantic-interposition lets the compiler inline exported ones.
function(attn_set_visibility target)
  set_target_properties(${target} PROPERTIES
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON POSITION_INDEPENDENT_CODE ON
    DEFINE_SYMBOL "")  # no macro differs between both kinds, so that a compiler cache serves both
  target_compile_options(${target} PRIVATE -fno-semantic-interposition)
  get_target_property(type ${target} TYPE)
  if(type STREQUAL SHARED_LIBRARY AND NOT APPLE)
    set(version_script ${PROJECT_SOURCE_DIR}/src/package/exports.map)
    target_link_options(${target} PRIVATE -Wl,--version-script=${version_script})
    set_target_properties(${target} PROPERTIES LINK_DEPENDS ${version_script})
  endif()
endfunction()

# Defines `library`_static and `library`_shared. One of them is the library itself. The other is
# made of the same objects, and is built only if something links it. In a shared build, programs
# that call internals link the static kind; in a static build, the tests of the exported symbols
# link the shared kind.
function(attn_add_both_kinds library)
  set(kinds static shared)
  if(BUILD_SHARED_LIBS)
    list(REVERSE kinds)
  endif()
  list(GET kinds 0 own)
  list(GET kinds 1 other)
  add_library(${library}_${own} ALIAS ${library})

  string(TOUPPER ${other} type)
  add_library(${library}_${other} ${type} EXCLUDE_FROM_ALL $<TARGET_OBJECTS:${library}>)
  target_include_directories(${library}_${other}
    INTERFACE $<TARGET_PROPERTY:attn,INTERFACE_INCLUDE_DIRECTORIES>)
  target_compile_features(${library}_${other} INTERFACE cxx_std_20)
  get_target_property(dependencies ${library} LINK_LIBRARIES)
  list(TRANSFORM dependencies REPLACE "^(attn|attn_io)$" "\\1_${other}")
  target_link_libraries(${library}_${other} PRIVATE ${dependencies})
  attn_set_visibility(${library}_${other})
endfunction()

foreach(library ${attn_libraries})
  attn_set_visibility(${library})
  attn_add_both_kinds(${library})
endforeach()
