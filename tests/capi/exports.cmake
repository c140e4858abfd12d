# Fails unless the shared library SHARED exports the functions in STORED, the description of the
# interface (abi.cmake), and nothing else. NM is the program that lists symbols.
execute_process(COMMAND ${NM} --dynamic --defined-only ${SHARED} OUTPUT_VARIABLE lines
                COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[0-9a-f]+ [A-Za-z] [^\n]+" exported "${lines}")
list(TRANSFORM exported REPLACE "^[0-9a-f]+ [A-Za-z] " "")

file(STRINGS ${STORED} stored REGEX "<elf-symbol ")
list(TRANSFORM stored REPLACE ".*name='([^']*)'.*" "\\1")

if(NOT stored)
  message(FATAL_ERROR "${STORED} names no function")
endif()
set(internal ${exported})
list(REMOVE_ITEM internal ${stored})
list(REMOVE_ITEM stored ${exported})
if(internal)
  list(JOIN internal "\n  " internal)
  message(SEND_ERROR "${SHARED} exports what ${STORED} does not name:\n  ${internal}")
endif()
if(stored)
  list(JOIN stored "\n  " stored)
  message(SEND_ERROR "${SHARED} does not export (is ATTN_API missing?):\n  ${stored}")
endif()
