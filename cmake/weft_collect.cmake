# Mechanisms and language models are found by name. A source that says WEFT_MECHANISM(local) or WEFT_LANGUAGE_MODEL(transformer) is
# enough: at build time the names are collected into one generated table, so a new one touches no existing file, and a static library
# drops nothing.
function(weft_collect macro glob output)
  file(GLOB files CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${glob})
  set(generated ${CMAKE_CURRENT_BINARY_DIR}/generated/${output})
  add_custom_command(
    OUTPUT ${generated}
    COMMAND ${CMAKE_COMMAND} -DMACRO=${macro} "-DFILES=${files}" -DOUTPUT=${generated} -P ${CMAKE_CURRENT_SOURCE_DIR}/cmake/collect_names.cmake
    DEPENDS ${files} ${CMAKE_CURRENT_SOURCE_DIR}/cmake/collect_names.cmake
    COMMENT "Collecting ${macro} names" VERBATIM)
  target_sources(weft PRIVATE ${generated})
  set_source_files_properties(${generated} PROPERTIES HEADER_FILE_ONLY ON)
  target_include_directories(weft PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/generated)
endfunction()

weft_collect(WEFT_MECHANISM attention/*.cpp mechanisms.inc)
weft_collect(WEFT_LANGUAGE_MODEL train/models/*.cpp language_models.inc)
