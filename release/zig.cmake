# Compiles for any platform with the Clang of the PyPI package ziglang. ZIG_TARGET, an environment
# variable, names the platform: x86_64-linux-gnu.2.28.
#
# Zig brings headers and symbols of every platform's C library, and links its own C++ library and
# unwinder into what it builds: the result needs the C library alone, of the version named.

set(ZIG_TARGET $ENV{ZIG_TARGET})
if(NOT ZIG_TARGET MATCHES "^(x86_64|aarch64)-(linux|macos|windows)")
  message(FATAL_ERROR "ZIG_TARGET: expected a target such as x86_64-linux-gnu.2.28, got '${ZIG_TARGET}'")
endif()
set(CMAKE_SYSTEM_PROCESSOR ${CMAKE_MATCH_1})
set(zig_linux Linux)
set(zig_macos Darwin)
set(zig_windows Windows)
set(CMAKE_SYSTEM_NAME ${zig_${CMAKE_MATCH_2}})

find_program(ZIG_PYTHON NAMES python3 python REQUIRED)
execute_process(
  COMMAND ${ZIG_PYTHON} -c "import pathlib, ziglang; print((pathlib.Path(ziglang.__file__).parent / 'zig').as_posix())"
  OUTPUT_VARIABLE zig OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
set(CMAKE_CXX_COMPILER ${zig} c++ -target ${ZIG_TARGET})
set(CMAKE_RC_COMPILER ${zig}) # CMake wants one for Windows; there is nothing for it to compile
set(CMAKE_MODULE_LINKER_FLAGS_INIT -s) # debug information holds paths
set(CMAKE_SHARED_LINKER_FLAGS_INIT -s)
