# Makes the imported target attn_text::utf8proc (Unicode's normal forms), which the tokenizer uses, from its header and library. CMAKE_PREFIX_PATH leads to other places than the usual.
include(FindPackageMessage)
foreach(part "utf8proc utf8proc.h utf8proc libutf8proc-dev")
  string(REPLACE " " ";" part "${part}")
  list(GET part 0 name)
  list(GET part 1 header)
  list(GET part 2 library)
  list(GET part 3 package)
  if(TARGET attn_text::${name})
    continue()
  endif()
  string(TOUPPER ATTN_${name} prefix)
  find_path(${prefix}_INCLUDE_DIR ${header})
  find_library(${prefix}_LIBRARY ${library})
  mark_as_advanced(${prefix}_INCLUDE_DIR ${prefix}_LIBRARY)
  if(NOT ${prefix}_INCLUDE_DIR OR NOT ${prefix}_LIBRARY)
    message(FATAL_ERROR "attn needs ${name}, and its header ${header} (${${prefix}_INCLUDE_DIR}) or its library ${library} "
                        "(${${prefix}_LIBRARY}) is missing. On Debian and Ubuntu: apt-get install ${package}. "
                        "Installed elsewhere: name the place in CMAKE_PREFIX_PATH.")
  endif()
  find_package_message(attn_${name} "Found ${name}: ${${prefix}_LIBRARY}" "${${prefix}_LIBRARY}")
  add_library(attn_text::${name} UNKNOWN IMPORTED)
  set_target_properties(attn_text::${name} PROPERTIES
    IMPORTED_LOCATION "${${prefix}_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${${prefix}_INCLUDE_DIR}")
endforeach()
