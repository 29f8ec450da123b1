# Sets unitrans_with_cuda (compile the kernels for NVIDIA GPUs?) and, for the Python package, UNITRANS_TORCH_ROOT.
if(NOT UNITRANS_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "UNITRANS_CUDA: expected AUTO, ON or OFF, got ${UNITRANS_CUDA}")
endif()

# torch is located, not imported: its dependencies may not be installed yet. version.py knows whether it has CUDA.
set(torch_cuda "")
if(UNITRANS_PYTHON)
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0], end='')"
    OUTPUT_VARIABLE UNITRANS_TORCH_ROOT
    RESULT_VARIABLE torch_status)
  if(NOT torch_status EQUAL 0)
    message(FATAL_ERROR "torch is not installed for ${Python_EXECUTABLE}; install it first")
  endif()
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c "import runpy, sys; print(runpy.run_path(sys.argv[1])['cuda'] or '', end='')"
            ${UNITRANS_TORCH_ROOT}/version.py
    OUTPUT_VARIABLE torch_cuda)
endif()

set(unitrans_with_cuda OFF)
if(UNITRANS_CUDA STREQUAL "ON" OR (UNITRANS_CUDA STREQUAL "AUTO" AND torch_cuda))
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    # Cubins of one major architecture serve its later minors; PTX of the last is for what comes after. Before the
    # compiler is enabled, as it would choose a default of its own.
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE nvcc_says)
      string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" found "${nvcc_says}")
      if(CMAKE_MATCH_1 VERSION_LESS 12.8)  # knows no Blackwell
        set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
      else()
        set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100-real 120)
      endif()
    endif()
    enable_language(CUDA)
    set(unitrans_with_cuda ON)
  elseif(UNITRANS_CUDA STREQUAL "ON")
    message(FATAL_ERROR "UNITRANS_CUDA=ON, but no nvcc was found; put it on PATH or set CMAKE_CUDA_COMPILER")
  endif()
endif()
if(unitrans_with_cuda)
  message(STATUS "CUDA kernels: compiled for ${CMAKE_CUDA_ARCHITECTURES}")
elseif(UNITRANS_PYTHON)
  message(STATUS "CUDA kernels: not compiled (UNITRANS_CUDA=${UNITRANS_CUDA}, torch has CUDA '${torch_cuda}')")
endif()
