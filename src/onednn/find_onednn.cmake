# Defines the imported target onednn::onednn from oneDNN's header and library, which are searched in
# the usual places, in $DNNLROOT and in CMAKE_PREFIX_PATH. oneDNN's own package file is not used,
# because Debian's requires the headers of OpenCL, which attn does not need.
if(TARGET onednn::onednn)
  return()
endif()

find_path(ONEDNN_INCLUDE_DIR oneapi/dnnl/dnnl.hpp HINTS ENV DNNLROOT PATH_SUFFIXES include)
find_library(ONEDNN_LIBRARY dnnl HINTS ENV DNNLROOT PATH_SUFFIXES lib)
mark_as_advanced(ONEDNN_INCLUDE_DIR ONEDNN_LIBRARY)
if(NOT ONEDNN_INCLUDE_DIR OR NOT ONEDNN_LIBRARY)
  message(FATAL_ERROR
    "attn needs oneDNN, and its header oneapi/dnnl/dnnl.hpp (${ONEDNN_INCLUDE_DIR}) or its library "
    "dnnl (${ONEDNN_LIBRARY}) is missing. On Debian and Ubuntu: apt-get install libdnnl-dev. "
    "If it is installed in another place, name that place in CMAKE_PREFIX_PATH. "
    "attn is built without oneDNN by -DATTN_WITH_ONEDNN=OFF.")
endif()

file(STRINGS "${ONEDNN_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h" onednn_version_lines
     REGEX "#define DNNL_VERSION_(MAJOR|MINOR|PATCH) ")
list(TRANSFORM onednn_version_lines REPLACE "[^0-9]+" "")
list(JOIN onednn_version_lines "." onednn_version)
if(onednn_version VERSION_LESS 2.6)
  message(FATAL_ERROR
    "attn needs oneDNN 2.6 or later; ${ONEDNN_INCLUDE_DIR} holds ${onednn_version}. "
    "On Debian and Ubuntu: apt-get install libdnnl-dev.")
endif()
include(FindPackageMessage)
find_package_message(onednn "Found oneDNN: ${ONEDNN_LIBRARY} (version ${onednn_version})"
                     "${ONEDNN_LIBRARY};${onednn_version}")

add_library(onednn::onednn UNKNOWN IMPORTED)
set_target_properties(onednn::onednn PROPERTIES
  IMPORTED_LOCATION "${ONEDNN_LIBRARY}"
  INTERFACE_INCLUDE_DIRECTORIES "${ONEDNN_INCLUDE_DIR}")
