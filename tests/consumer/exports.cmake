# Fails unless the shared library SHARED exports the public names and nothing else. STATIC is the
# static library of the same objects, and NM the program that lists symbols.
#
# Public are the functions in namespace attn and the members of its classes. Internal code is in
# namespaces within attn, whose names are lowercase, and the private parts of a class are in classes
# within the class.
set(class "[A-Z][A-Za-z]*(<[a-z ]+>)?")
set(public "^attn::(${class}::)?(~?[A-Za-z0-9_]+|operator[^a-z(]+)\\(")
# The ATTN_HIDDEN members that give the library a class's private parts, or make an object of them.
set(private "^attn::${class}::(memory|impl|parts)\\(\\)|^attn::BlockMask::BlockMask\\(std::shared_ptr")
# The inline destructors of attn::Tensor and attn::Workspace call Free, threads call the tasks of an
# attn::Executor, and a program that catches attn::Error or derives from attn::Executor needs its
# type information.
set(needed
  "::Free::operator\\(\\)\\(void\\*\\) const$" "^attn::Executor::Task::operator\\(\\)\\(\\) const$"
  "^(typeinfo|typeinfo name|vtable) for attn::(Error|Executor)$")

# Sets `result` to the names of the symbols that `file` defines. `kind` matches the letters of nm
# for the kinds of symbols to list; further arguments are options of nm.
function(list_symbols result file kind)
  execute_process(COMMAND ${NM} ${ARGN} --demangle --defined-only ${file}
                  OUTPUT_VARIABLE lines COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE "[abi:cxx11]" "" lines "${lines}")
  string(REGEX MATCHALL "[0-9a-f]+ ${kind} [^\n]+" lines "${lines}")
  list(TRANSFORM lines REPLACE "^[0-9a-f]+ ${kind} " "")
  list(REMOVE_DUPLICATES lines)
  set(${result} "${lines}" PARENT_SCOPE)
endfunction()

list_symbols(exported ${SHARED} "[A-Za-z]" --dynamic)
list_symbols(defined ${STATIC} "T" --extern-only)

set(internal ${exported})
foreach(pattern ${public} ${needed})
  list(FILTER internal EXCLUDE REGEX ${pattern})
endforeach()
set(missing ${defined})
list(FILTER missing INCLUDE REGEX ${public})
list(FILTER missing EXCLUDE REGEX ${private})
list(LENGTH missing number_of_public)
list(REMOVE_ITEM missing ${exported})

if(number_of_public EQUAL 0)
  message(FATAL_ERROR "${STATIC} defines no public function")
endif()
if(internal)
  list(JOIN internal "\n  " internal)
  message(SEND_ERROR "${SHARED} exports what is not public:\n  ${internal}")
endif()
if(missing)
  list(JOIN missing "\n  " missing)
  message(SEND_ERROR "${SHARED} does not export (is ATTN_API missing?):\n  ${missing}")
endif()
