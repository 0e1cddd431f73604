#include "data/hdf5_call.h"

#include "kernels/core/check.h"

namespace nestling::detail {

namespace {

herr_t keep_description(unsigned, const H5E_error2_t* error, void* out) {
  auto& text = *static_cast<std::string*>(out);
  if (error->desc != nullptr) text = error->desc;  // walked outwards in: the innermost is the last
  return 0;
}

Hdf5Id bf16_type() {
  Hdf5Id type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  const bool made = H5Tset_fields(type.get(), 15, 7, 8, 0, 7) >= 0 &&
                    H5Tset_size(type.get(), 2) >= 0 && H5Tset_ebias(type.get(), 127) >= 0;
  NESTLING_CHECK(made, "HDF5 makes no bf16 type: ", hdf5_reason());
  return type;
}

constexpr DType kStored[] = {DType::kF32, DType::kBF16, DType::kF64,
                             DType::kI64, DType::kI32,  DType::kU8};

}  // namespace

void silence_hdf5() {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

std::string hdf5_reason() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_description, &text);
  H5Eclear2(H5E_DEFAULT);
  return text.empty() ? "the library gives no reason" : text;
}

Hdf5Id file_access() {
  Hdf5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  const bool set = H5Pset_libver_bounds(access.get(), H5F_LIBVER_LATEST, H5F_LIBVER_LATEST) >= 0 &&
                   H5Pset_file_locking(access.get(), 0, 1) >= 0;
  NESTLING_CHECK(set, "HDF5: ", hdf5_reason());
  return access;
}

Hdf5Id stored_type_id(DType dtype) {
  const auto standard = [](hid_t type) { return Hdf5Id(H5Tcopy(type), H5Tclose); };
  switch (dtype) {
    case DType::kF32:
      return standard(H5T_IEEE_F32LE);
    case DType::kBF16:
      return bf16_type();
    case DType::kF64:
      return standard(H5T_IEEE_F64LE);
    case DType::kI64:
      return standard(H5T_STD_I64LE);
    case DType::kI32:
      return standard(H5T_STD_I32LE);
    case DType::kU8:
      return standard(H5T_STD_U8LE);
    default:
      throw Error(str("HDF5 files here hold no ", dtype_name(dtype)));
  }
}

std::optional<DType> dtype_of_stored(hid_t type) {
  for (const DType dtype : kStored)
    if (H5Tequal(type, stored_type_id(dtype).get()) > 0) return dtype;
  return std::nullopt;
}

Place3 three(const std::vector<int64_t>& dims, int64_t fill) {
  Place3 p{{fill, fill, fill}};
  for (size_t d = 0; d < dims.size(); ++d) p.at[3 - dims.size() + d] = dims[d];
  return p;
}

}  // namespace nestling::detail
