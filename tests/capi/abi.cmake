# Fails if the binary interface of attn_c is not the one that is stored in STORED, an XML file of
# abidw. Run with -DCC=... -DINCLUDE=... -DSTORED=... -DNEW=..., where NEW is the file that is
# written for the headers as they are.
#
# The description is made from the headers alone. In a C interface they say everything: the compiler
# refuses functions of attn_c that are declared otherwise, and the test exports.attn_c compares the
# names. So it is the same whatever compiles attn_c, and with whatever options. Each declaration
# gets a body, and what comes out is a library whose debug information has all that the headers name.
find_program(ABIDW abidw)
find_program(ABIDIFF abidiff)
if(NOT ABIDW OR NOT ABIDIFF)
  message("abidw or abidiff is not installed (Debian: abigail-tools), so nothing was compared")
  return()
endif()

cmake_path(GET NEW PARENT_PATH folder)
cmake_path(GET NEW FILENAME name)  # relative, since the description contains the name of its source
function(run)
  execute_process(COMMAND ${ARGN} WORKING_DIRECTORY ${folder} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(WRITE ${NEW}.c "#include <attn/attn.h>\n")
run(${CC} -std=c99 -E -P -I${INCLUDE} ${name}.c -o ${name}.i)
file(READ ${NEW}.i code)
string(REGEX REPLACE
  "(__attribute__\\(\\(visibility\\(\"default\"\\)\\)\\)[^;]*);" "\\1 { return 0; }" code "${code}")
file(WRITE ${NEW}.c "${code}\n")
run(${CC} -std=c99 -g -fPIC -shared -fno-eliminate-unused-debug-types -Wl,-soname,${SONAME}
    ${name}.c -o ${name}.so)
run(${ABIDW} --load-all-types --no-show-locs --no-corpus-path --no-comp-dir-path --no-elf-needed
    --no-parameter-names --type-id-style hash --out-file ${name} ${name}.so)

# The exit code leaves out changes that abidiff calls harmless, those of callbacks among them. It
# prints nothing where nothing has changed.
execute_process(COMMAND ${ABIDIFF} --harmless --non-reachable-types ${STORED} ${NEW}
                OUTPUT_VARIABLE changes ERROR_VARIABLE changes)
if(NOT changes STREQUAL "")
  message(FATAL_ERROR "The interface has changed:\n${changes}\n"
    "If old programs still run (CONTRIBUTING.md says which changes let them), store the new one:\n"
    "  cp ${NEW} ${STORED}")
endif()
