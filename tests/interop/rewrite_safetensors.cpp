// rewrite_safetensors IN OUT: loads a file and saves it again. Exit code 1 and the message on standard error if it cannot be loaded.
#include <cstdio>

#include "weft/train/safetensors.h"

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    weft::save_safetensors(argv[2], weft::load_safetensors(argv[1]));
  } catch (const weft::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
