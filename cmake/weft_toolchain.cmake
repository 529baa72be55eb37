# Compiler settings shared by the library, programs and tests; none of it reaches users of weft::weft.
find_program(WEFT_CCACHE ccache)
if(WEFT_CCACHE AND PROJECT_IS_TOP_LEVEL AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${WEFT_CCACHE})
endif()

add_library(weft_warnings INTERFACE)
set(cxx_warnings -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # False positives of g++ 12 inside fmt 9, std::string and around pointers that may be null; ABI notes.
  list(APPEND cxx_warnings -Wno-stringop-overflow -Wno-restrict -Wno-array-bounds -Wno-psabi)
endif()
set(cuda_warnings -Xcompiler=-Wall,-Wextra)
if(WEFT_WERROR)
  list(APPEND cxx_warnings -Werror)
  list(APPEND cuda_warnings -Werror=all-warnings)
endif()
target_compile_options(weft_warnings INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${cxx_warnings}>" "$<$<COMPILE_LANGUAGE:CUDA>:${cuda_warnings}>")

add_library(weft_sanitizers INTERFACE)
if(WEFT_SANITIZE)
  target_compile_options(weft_sanitizers INTERFACE -fsanitize=${WEFT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(weft_sanitizers INTERFACE -fsanitize=${WEFT_SANITIZE})
  target_compile_definitions(weft_sanitizers INTERFACE WEFT_SANITIZED=1)  # tests run at reduced sizes
endif()
