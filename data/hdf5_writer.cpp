#include "data/hdf5_writer.h"

#include <cstring>
#include <unistd.h>

#include "data/atomic_file.h"
#include "data/crc32c.h"
#include "data/hdf5_call.h"

namespace nestling {

using detail::Hdf5Id;

namespace {

// A chunk's bytes from the view; what the chunk holds beyond the extents stays zero.
void gather(ConstView view, DType stored, const detail::ChunkCopy& copy, std::byte* chunk) {
  const int64_t item = dtype_bytes(stored);
  if (view.dtype() == stored) {
    copy.rows([&](int64_t to, int64_t from, int64_t n) {
      std::memcpy(chunk + to * item, view.data() + from * item, static_cast<size_t>(n * item));
    });
    return;
  }
  const auto* source = view.ptr<float>();
  auto* out = reinterpret_cast<bf16*>(chunk);
  copy.rows([&](int64_t to, int64_t from, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[to + i] = bf16(source[from + i]);
  });
}

Hdf5Id space_of(const std::vector<hsize_t>& extents) {
  for (const hsize_t n : extents)
    if (n == 0) return {H5Screate(H5S_NULL), H5Sclose};
  return {H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr), H5Sclose};
}

std::string folder_of(const std::string& name) {
  return name.substr(0, name.find_last_of('/'));
}

// How an object is made: without times, or the same content would not be the same bytes.
Hdf5Id creation(hid_t kind) {
  Hdf5Id properties(H5Pcreate(kind), H5Pclose);
  NESTLING_CHECK(H5Pset_obj_track_times(properties.get(), false) >= 0,
                 "HDF5: ", detail::hdf5_reason());
  return properties;
}

void copy_aside(const std::filesystem::path& file, const std::filesystem::path& aside) {
  std::error_code failed;
  std::filesystem::copy_file(file, aside, std::filesystem::copy_options::overwrite_existing,
                             failed);
  if (!failed) return;
  ::unlink(aside.c_str());
  throw Error(str("cannot copy ", file.string(), " to ", aside.string(), ": ", failed.message()));
}

}  // namespace

Hdf5Writer::Hdf5Writer(const std::filesystem::path& file) : Hdf5Writer(file, Start::kEmpty) {}

Hdf5Writer Hdf5Writer::amend(const std::filesystem::path& file) {
  return {file, Start::kCopy};
}

Hdf5Writer::Hdf5Writer(const std::filesystem::path& file, Start start)
    : path_(file_to_replace(file)), aside_(path_.string() + str(".tmp.", ::getpid())) {
  detail::silence_hdf5();
  const Hdf5Id access = detail::file_access();
  const Hdf5Id timeless = creation(H5P_FILE_CREATE);
  if (start == Start::kEmpty) {
    file_ =
        Hdf5Id(H5Fcreate(aside_.c_str(), H5F_ACC_TRUNC, timeless.get(), access.get()), H5Fclose);
  } else {
    copy_aside(path_, aside_);
    file_ = Hdf5Id(H5Fopen(aside_.c_str(), H5F_ACC_RDWR, access.get()), H5Fclose);
  }
  if (file_.get() >= 0) return;
  const std::string reason = detail::hdf5_reason();
  ::unlink(aside_.c_str());
  throw Error(str("cannot write ", aside_.string(), ": ", reason));
}

Hdf5Writer::~Hdf5Writer() {
  if (file_.get() < 0) return;
  file_ = {};
  ::unlink(aside_.c_str());
}

void Hdf5Writer::group(const std::string& name) {
  if (name.empty() || name == "/") return;
  group(folder_of(name));
  if (H5Lexists(file_.get(), name.c_str(), H5P_DEFAULT) > 0) return;
  const Hdf5Id timeless = creation(H5P_GROUP_CREATE);
  const Hdf5Id made(H5Gcreate2(file_.get(), name.c_str(), H5P_DEFAULT, timeless.get(), H5P_DEFAULT),
                    H5Gclose);
  NESTLING_CHECK(made.get() >= 0, aside_.string(), ": ", name, ": ", detail::hdf5_reason());
}

void Hdf5Writer::remove(const std::string& name) {
  if (H5Lexists(file_.get(), name.c_str(), H5P_DEFAULT) <= 0) return;
  NESTLING_CHECK(H5Ldelete(file_.get(), name.c_str(), H5P_DEFAULT) >= 0, aside_.string(), ": ",
                 name, ": ", detail::hdf5_reason());
}

void Hdf5Writer::put_attribute(const std::string& object, const std::string& key, int64_t type,
                               const Shape& shape, const void* data) {
  std::vector<hsize_t> extents(shape.begin(), shape.end());
  const Hdf5Id space = shape.empty() ? Hdf5Id(H5Screate(H5S_SCALAR), H5Sclose) : space_of(extents);
  const Hdf5Id made(H5Acreate_by_name(file_.get(), object.c_str(), key.c_str(), type, space.get(),
                                      H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                    H5Aclose);
  NESTLING_CHECK(made.get() >= 0 && H5Awrite(made.get(), type, data) >= 0, aside_.string(), ": ",
                 object, ": attribute ", key, ": ", detail::hdf5_reason());
}

void Hdf5Writer::attribute(const std::string& object, const std::string& key,
                           std::string_view value) {
  const Hdf5Id type(H5Tcopy(H5T_C_S1), H5Tclose);
  const std::string terminated(value);  // HDF5 has no string of no bytes: one zero stands for it
  const bool set = H5Tset_size(type.get(), std::max<size_t>(value.size(), 1)) >= 0 &&
                   H5Tset_strpad(type.get(), H5T_STR_NULLPAD) >= 0 &&
                   H5Tset_cset(type.get(), H5T_CSET_UTF8) >= 0;
  NESTLING_CHECK(set, "HDF5: ", detail::hdf5_reason());
  put_attribute(object, key, type.get(), {}, terminated.c_str());
}

void Hdf5Writer::attribute(const std::string& object, const std::string& key, int64_t value) {
  put_attribute(object, key, detail::stored_type_id(DType::kI64).get(), {}, &value);
}

void Hdf5Writer::attribute(const std::string& object, const std::string& key, double value) {
  put_attribute(object, key, detail::stored_type_id(DType::kF64).get(), {}, &value);
}

void Hdf5Writer::dataset(const std::string& name, DType stored, ConstView view,
                         const Shape& chunk) {
  const int rank = view.rank();
  NESTLING_CHECK(rank >= 1 && rank <= detail::kMaxDims, name, ": ", view.describe(),
                 ", needs 1 to 3 dimensions");
  NESTLING_CHECK(view.dtype() == stored || (view.dtype() == DType::kF32 && stored == DType::kBF16),
                 name, ": ", view.describe(), " cannot be stored as ", dtype_name(stored));
  group(folder_of(name));
  std::vector<hsize_t> extents;
  for (int d = 0; d < rank; ++d) extents.push_back(static_cast<hsize_t>(view.dim(d)));
  const Hdf5Id space = space_of(extents);
  const Hdf5Id layout = creation(H5P_DATASET_CREATE);
  const Hdf5Id type = detail::stored_type_id(stored);
  if (view.size() > 0) {
    NESTLING_CHECK(static_cast<int>(chunk.size()) == rank, name, ": a chunk of ", chunk.size(),
                   " dimensions for ", view.describe());
    for (int d = 0; d < rank; ++d) {
      const int64_t c = chunk[static_cast<size_t>(d)];
      NESTLING_CHECK(c > 0 && view.dim(d) % c == 0, name, ": chunks of ", c,
                     " do not divide dimension ", d, " of ", view.describe());
    }
    const std::vector<hsize_t> c(chunk.begin(), chunk.end());
    NESTLING_CHECK(H5Pset_chunk(layout.get(), rank, c.data()) >= 0, name, ": ",
                   detail::hdf5_reason());
  }
  const Hdf5Id dataset(H5Dcreate2(file_.get(), name.c_str(), type.get(), space.get(), H5P_DEFAULT,
                                  layout.get(), H5P_DEFAULT),
                       H5Dclose);
  NESTLING_CHECK(dataset.get() >= 0, aside_.string(), ": ", name, ": ", detail::hdf5_reason());
  if (view.size() > 0) write_chunks(dataset, name, stored, view, chunk);
}

void Hdf5Writer::write_chunks(const Hdf5Id& dataset, const std::string& name, DType stored,
                              ConstView view, const Shape& chunk) {
  Shape extents;
  int64_t bytes = dtype_bytes(stored);
  for (int d = 0; d < view.rank(); ++d) extents.push_back(view.dim(d));
  for (const int64_t c : chunk) bytes *= c;
  std::vector<std::byte> buffer(static_cast<size_t>(bytes));
  std::vector<uint32_t> checksums;
  detail::for_each_chunk(extents, chunk, [&](const Shape& at) {
    gather(view, stored, detail::chunk_copy(view, chunk, at), buffer.data());
    const std::vector<hsize_t> offset(at.begin(), at.end());
    const bool ok = H5Dwrite_chunk(dataset.get(), H5P_DEFAULT, 0, offset.data(), buffer.size(),
                                   buffer.data()) >= 0;
    NESTLING_CHECK(ok, aside_.string(), ": ", name, ": ", detail::hdf5_reason());
    checksums.push_back(crc32c(buffer));
  });
  put_attribute(name, detail::kChecksumKey, H5T_STD_U32LE, {std::ssize(checksums)},
                checksums.data());
}

void Hdf5Writer::text(const std::string& name, std::string_view bytes) {
  const auto size = static_cast<int64_t>(bytes.size());
  const ConstView view(reinterpret_cast<const std::byte*>(bytes.data()), DType::kU8, Device::kCpu,
                       {size});
  dataset(name, DType::kU8, view, {size});
}

void Hdf5Writer::commit() {
  NESTLING_CHECK(file_.get() >= 0, path_.string(), " was already committed");
  NESTLING_CHECK(H5Fflush(file_.get(), H5F_SCOPE_GLOBAL) >= 0, "cannot write ", aside_.string(),
                 ": ", detail::hdf5_reason());
  file_ = {};
  commit_aside(aside_, path_);
}

}  // namespace nestling
