# Fails unless each full register tile of the micro-kernel in OBJECTS, which are the kernels of an
# instruction set, holds at least COUNT of INSTRUCTION, and nothing that SPILL matches, if it is
# given: an instruction that moves a vector to the stack or back. NM and OBJDUMP read the object.
list(LENGTH OBJECTS number_of_objects)
if(NOT number_of_objects EQUAL 1)
  message(FATAL_ERROR "One object holds the kernels of an instruction set, not these: ${OBJECTS}")
endif()

function(run result)
  execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)
  set(${result} "${output}" PARENT_SCOPE)
endfunction()

run(symbols ${NM} --defined-only ${OBJECTS})
# F32, 6 rows, the vectors of a panel; the rest says how operands lie.
string(REGEX MATCHALL "_ZN[^\n]*matmul_tile[^\n]*F32ELi6ELi${VECTORS}E[^\n]*" tiles "${symbols}")
if(NOT tiles)
  message(FATAL_ERROR "${OBJECTS} has no register tile of 6 rows and ${VECTORS} vectors")
endif()
foreach(tile ${tiles})
  run(code ${OBJDUMP} -d --no-show-raw-insn --disassemble=${tile} ${OBJECTS})
  string(REGEX MATCHALL "\t${INSTRUCTION}" products "${code}")
  list(LENGTH products number_of_products)
  if(number_of_products LESS COUNT)
    message(SEND_ERROR "${tile} has ${number_of_products} of ${INSTRUCTION}; it needs ${COUNT}")
  endif()
  if(DEFINED SPILL AND code MATCHES "${SPILL}")
    message(SEND_ERROR "${tile} keeps accumulators on the stack: ${CMAKE_MATCH_0}")
  endif()
endforeach()
