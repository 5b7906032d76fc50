# Read by CMake after llama.cpp's own project(); acts once its targets are defined.
# Most of a build goes into reading the same headers and into optimising what parses requests:
# the large targets are compiled in few pieces, and only the arithmetic is optimised.
function(cheapen)
  set(large llama-common server-context llama-server-impl mtmd)
  set_target_properties(${large} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 16)
  # These three do not compile in one piece with others.
  foreach(path IN ITEMS common/json.cpp tools/mtmd/mtmd-helper.cpp tools/mtmd/mtmd-helper-gen.cpp)
    get_filename_component(folder ${path} DIRECTORY)
    set_source_files_properties(${PROJECT_SOURCE_DIR}/${path} DIRECTORY ${folder}
                                PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  endforeach()
  foreach(target IN ITEMS ggml-base ggml-cpu ggml)
    target_compile_options(${target} PRIVATE -O2)
  endforeach()
endfunction()
cmake_language(DEFER CALL cheapen)
