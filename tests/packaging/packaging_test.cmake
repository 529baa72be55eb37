# cmake -DWAY=... -DWEFT_SOURCE=... -DWEFT_BUILD=... -DWORK=... -DGENERATOR=... -DCOMPILER=... -P packaging_test.cmake
#
# Builds the outside program with weft taken in one of the three ways, without a network, and checks what it prints. The two ways that
# compile weft again share one build folder, so that it is compiled once, unoptimized and for the CPU.
set(build ${WORK}/build)
if(WAY STREQUAL "find_package")
  set(build ${WORK}/build_installed)
  file(REMOVE_RECURSE ${WORK}/prefix ${build})
  execute_process(COMMAND ${CMAKE_COMMAND} --install ${WEFT_BUILD} --prefix ${WORK}/prefix OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
endif()

set(launcher)
find_program(ccache ccache)
if(ccache)
  set(launcher -DCMAKE_CXX_COMPILER_LAUNCHER=${ccache})
endif()
execute_process(
  COMMAND ${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/outside -B ${build} -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER} ${launcher}
          -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0 -DWAY=${WAY} -DWEFT_SOURCE=${WEFT_SOURCE} -DCMAKE_PREFIX_PATH=${WORK}/prefix
          -DFETCHCONTENT_FULLY_DISCONNECTED=ON -DWEFT_CUDA=OFF
  COMMAND_ERROR_IS_FATAL ANY)
file(REMOVE ${build}/outside)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${build} COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${build}/outside OUTPUT_VARIABLE printed COMMAND_ERROR_IS_FATAL ANY)
if(NOT printed STREQUAL "18 18\n")
  message(FATAL_ERROR "${WAY}: expected the outside program to print \"18 18\", it printed \"${printed}\"")
endif()

# Somebody else's project gets the library alone: no tests, programs or benchmarks of ours, and no install rules.
foreach(ours weft_core_tests weft_bench train_lm)
  file(GLOB_RECURSE found ${build}/${ours})
  if(found)
    message(FATAL_ERROR "${WAY}: the outside project was made to build ${found}")
  endif()
endforeach()
