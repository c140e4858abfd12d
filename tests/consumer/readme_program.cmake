# Fails unless README.md contains apps/hello.cpp word for word.
set(root ${CMAKE_CURRENT_LIST_DIR}/../..)
file(READ ${root}/README.md readme)
file(READ ${root}/apps/hello.cpp program)
string(FIND "${readme}" "```cpp\n${program}```\n" place)
if(place EQUAL -1)
  message(FATAL_ERROR "README.md does not show apps/hello.cpp as it is")
endif()
