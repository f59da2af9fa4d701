// Finds a kernel's shared arrays (host_cuda_shared.h). Compiled once for all tests.

#include "testing/host_cuda_shared.h"

#include <elf.h>
#include <link.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "testing/host_cuda_launch.h"

namespace host_cuda {

// The static variables of a function.
struct SharedArrays {
  struct Array {
    unsigned char* address;
    std::size_t bytes;
  };
  std::vector<Array> arrays;
  std::uint64_t filled_in_block = 0;
};

namespace {

constexpr char kSharedMarkerName[] = "host_cuda_shared_marker_";

// Where this executable (or shared library) is loaded, and its file.
struct LoadedObject {
  std::uintptr_t address_within;
  std::uintptr_t base = 0;
  std::string path;
};

int find_loaded_object(dl_phdr_info* info, std::size_t, void* data) {
  auto* const object = static_cast<LoadedObject*>(data);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    const std::uintptr_t begin = info->dlpi_addr + header.p_vaddr;
    if (header.p_type == PT_LOAD && object->address_within >= begin &&
        object->address_within < begin + header.p_memsz) {
      object->base = info->dlpi_addr;
      object->path = info->dlpi_name[0] != '\0' ? info->dlpi_name : "/proc/self/exe";
      return 1;
    }
  }
  return 0;
}

struct Variable {
  std::string name;
  std::uintptr_t address;
  std::size_t bytes;
};

// The static variables of functions (mangled names that start with _ZZ) in an object file.
std::vector<Variable> static_variables_of(const LoadedObject& object) {
  std::vector<Variable> variables;
  std::ifstream file(object.path, std::ios::binary);
  const auto read = [&file](auto* target, std::uint64_t offset, std::uint64_t count) {
    file.seekg(static_cast<std::streamoff>(offset));
    file.read(reinterpret_cast<char*>(target),
              static_cast<std::streamsize>(count * sizeof(*target)));
  };
  ElfW(Ehdr) header{};
  read(&header, 0, 1);
  std::vector<ElfW(Shdr)> sections(header.e_shnum);
  read(sections.data(), header.e_shoff, header.e_shnum);
  for (const auto& section : sections) {
    if (section.sh_type != SHT_SYMTAB || section.sh_link >= sections.size()) continue;
    std::vector<ElfW(Sym)> symbols(section.sh_size / sizeof(ElfW(Sym)));
    read(symbols.data(), section.sh_offset, symbols.size());
    const auto& names_section = sections[section.sh_link];
    std::vector<char> names(names_section.sh_size + 1, '\0');
    read(names.data(), names_section.sh_offset, names_section.sh_size);
    for (const auto& symbol : symbols) {
      const char* const name = names.data() + symbol.st_name;
      if ((symbol.st_info & 0xf) == STT_OBJECT && std::strncmp(name, "_ZZ", 3) == 0) {
        variables.push_back({name, object.base + symbol.st_value, symbol.st_size});
      }
    }
  }
  return variables;
}

// The shared arrays of the function that contains a marker.
SharedArrays* shared_arrays_next_to(const SharedMarker& marker) {
  static std::map<std::string, SharedArrays> functions;
  static std::vector<Variable> variables;
  LoadedObject object{reinterpret_cast<std::uintptr_t>(&marker), 0, ""};
  ::dl_iterate_phdr(&find_loaded_object, &object);
  if (variables.empty()) variables = static_variables_of(object);
  std::string prefix;
  for (const Variable& variable : variables) {
    if (variable.address != object.address_within) continue;
    // ...E27host_cuda_shared_marker_13: the name's length is part of the mangled name.
    const std::size_t at = variable.name.rfind(kSharedMarkerName);
    if (at != std::string::npos) {
      prefix = variable.name.substr(0, variable.name.find_last_not_of("0123456789", at - 1) + 1);
    }
  }
  if (prefix.empty()) {
    Launch::current().stop("shared memory found without its symbol (a stripped executable?)");
  }
  const auto [entry, added] = functions.try_emplace(prefix);
  if (added) {
    for (const Variable& variable : variables) {
      if (variable.name.compare(0, prefix.size(), prefix) == 0 &&
          variable.name.find(kSharedMarkerName) == std::string::npos) {
        entry->second.arrays.push_back(
            {reinterpret_cast<unsigned char*>(variable.address), variable.bytes});
      }
    }
  }
  return &entry->second;
}

}  // namespace

void enter_shared(SharedMarker& marker) {
  if (marker.function == nullptr) marker.function = shared_arrays_next_to(marker);
  const Launch& launch = Launch::current();
  if (marker.function->filled_in_block == launch.block_serial()) return;
  marker.function->filled_in_block = launch.block_serial();
  for (const auto& array : marker.function->arrays) {
    launch.fill_with_garbage(array.address, array.bytes);
  }
  __asm__ volatile("" ::: "memory");  // the compiler does not know that this wrote the arrays
}

}  // namespace host_cuda
