#include "data/hdf5_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>

#include "data/crc32c.h"
#include "data/hdf5_call.h"
#include "kernels/core/check.h"

namespace nestling {

using detail::Hdf5Id;

bool is_hdf5(const std::filesystem::path& file) {
  constexpr std::array<char, 8> kSignature = {'\x89', 'H', 'D', 'F', '\r', '\n', '\x1a', '\n'};
  std::array<char, 8> head{};
  std::ifstream in(file, std::ios::binary);
  in.read(head.data(), head.size());
  return in && head == kSignature;
}

namespace {

// Older superblocks have no checksum: a damaged version number must not make one of them.
void check_superblock(const std::filesystem::path& file) {
  std::array<char, 9> head{};
  std::ifstream in(file, std::ios::binary);
  in.read(head.data(), head.size());
  NESTLING_CHECK_INPUT(in && is_hdf5(file), file.string(), ": not an HDF5 file");
  NESTLING_CHECK_INPUT(head[8] == 2 || head[8] == 3, file.string(), ": HDF5 superblock version ",
                       static_cast<int>(head[8]), ", needs 2 or 3 (library format latest)");
}

struct StoredExtents {
  bool empty = false;  // a null dataspace
  Shape shape;
};

herr_t collect(hid_t, const char* name, const H5L_info_t*, void* out) {
  static_cast<std::vector<std::string>*>(out)->emplace_back(name);
  return 0;
}

StoredExtents extents_of(hid_t space) {
  StoredExtents e;
  const H5S_class_t kind = H5Sget_simple_extent_type(space);
  if (kind == H5S_NULL) return {.empty = true, .shape = {0}};
  if (kind != H5S_SIMPLE) return e;
  std::array<hsize_t, H5S_MAX_RANK> dims{};
  const int rank = H5Sget_simple_extent_dims(space, dims.data(), nullptr);
  for (int d = 0; d < rank; ++d) {
    const hsize_t n = dims[static_cast<size_t>(d)];
    e.shape.push_back(n > static_cast<hsize_t>(INT64_MAX) ? -1 : static_cast<int64_t>(n));
  }
  return e;
}

// Product of positive extents, or -1 where it exceeds `limit`.
int64_t product(const Shape& shape, int64_t first, int64_t limit) {
  int64_t n = first;
  for (const int64_t d : shape) {
    if (d < 1 || d > limit || n > limit / d) return -1;
    n *= d;
  }
  return n;
}

// A chunk's bytes into the view.
void scatter(View out, DType stored, const detail::ChunkCopy& copy, const std::byte* chunk) {
  const int64_t item = dtype_bytes(stored);
  if (out.dtype() == stored) {
    copy.rows([&](int64_t from, int64_t to, int64_t n) {
      std::memcpy(out.data() + to * item, chunk + from * item, static_cast<size_t>(n * item));
    });
    return;
  }
  const auto* source = reinterpret_cast<const bf16*>(chunk);
  auto* to_floats = out.ptr<float>();
  copy.rows([&](int64_t from, int64_t to, int64_t n) {
    for (int64_t i = 0; i < n; ++i) to_floats[to + i] = static_cast<float>(source[from + i]);
  });
}

}  // namespace

// --- the file ---------------------------------------------------------------------------------------

Hdf5File::Hdf5File(const std::filesystem::path& file) : path_(file) {
  std::error_code failed;
  const auto bytes = std::filesystem::file_size(file, failed);
  NESTLING_CHECK_INPUT(!failed, file.string(), ": ", failed.message());
  size_ = static_cast<int64_t>(bytes);
  check_superblock(file);
  detail::silence_hdf5();
  file_ = Hdf5Id(H5Fopen(file.c_str(), H5F_ACC_RDONLY, detail::file_access().get()), H5Fclose);
  NESTLING_CHECK_INPUT(file_.get() >= 0, file.string(),
                       ": not a whole HDF5 file: ", detail::hdf5_reason());
}

void Hdf5File::fail(const std::string& object, const std::string& what) const {
  throw Error(str(path_.string(), ": ", object, ": ", what), ErrorKind::kInput);
}

// Links that lead elsewhere have no checksum here: every part of a name is what this file holds.
void Hdf5File::check_hard(const std::string& name) const {
  for (size_t end = 1; end != std::string::npos && name.size() > 1;) {
    end = name.find('/', end + 1);
    const std::string part = name.substr(0, end);
    H5L_info_t info;
    if (H5Lget_info(file_.get(), part.c_str(), &info, H5P_DEFAULT) < 0)
      fail(part, "not there, or damaged: " + detail::hdf5_reason());
    if (info.type != H5L_TYPE_HARD) fail(part, "a link to another place");
  }
}

Hdf5Id Hdf5File::open_object(const std::string& name) const {
  check_hard(name);
  Hdf5Id object(H5Oopen(file_.get(), name.c_str(), H5P_DEFAULT), H5Oclose);
  if (object.get() < 0) fail(name, "damaged: " + detail::hdf5_reason());
  return object;
}

bool Hdf5File::has(const std::string& name) const {
  for (size_t end = 0; end != std::string::npos;) {
    end = name.find('/', end + 1);
    const htri_t there = H5Lexists(file_.get(), name.substr(0, end).c_str(), H5P_DEFAULT);
    if (there < 0) fail(name, "damaged: " + detail::hdf5_reason());
    if (there == 0) return false;
  }
  return true;
}

bool Hdf5File::is_group(const std::string& name) const {
  return H5Iget_type(open_object(name).get()) == H5I_GROUP;
}

std::vector<std::string> Hdf5File::names(const std::string& group) const {
  const Hdf5Id object = open_object(group);
  if (H5Iget_type(object.get()) != H5I_GROUP) fail(group, "not a group");
  std::vector<std::string> found;
  hsize_t at = 0;
  if (H5Literate(object.get(), H5_INDEX_NAME, H5_ITER_INC, &at, collect, &found) < 0)
    fail(group, "damaged: " + detail::hdf5_reason());
  return found;
}

bool Hdf5File::has_attribute(const std::string& object, const std::string& key) const {
  const htri_t there = H5Aexists(open_object(object).get(), key.c_str());
  if (there < 0) fail(object, "attribute " + key + ": damaged: " + detail::hdf5_reason());
  return there > 0;
}

Hdf5Id Hdf5File::open_attribute(const std::string& object, const std::string& key) const {
  Hdf5Id attribute(H5Aopen(open_object(object).get(), key.c_str(), H5P_DEFAULT), H5Aclose);
  if (attribute.get() < 0)
    fail(object, "attribute " + key + " is missing or damaged: " + detail::hdf5_reason());
  return attribute;
}

std::string Hdf5File::text_attribute(const std::string& object, const std::string& key) const {
  const Hdf5Id attribute = open_attribute(object, key);
  const Hdf5Id type(H5Aget_type(attribute.get()), H5Tclose);
  const Hdf5Id space(H5Aget_space(attribute.get()), H5Sclose);
  const size_t size = H5Tget_size(type.get());
  const bool good = H5Tget_class(type.get()) == H5T_STRING && H5Tis_variable_str(type.get()) == 0 &&
                    H5Sget_simple_extent_type(space.get()) == H5S_SCALAR &&
                    size <= static_cast<size_t>(size_);
  if (!good) fail(object, "attribute " + key + ": needs one string of fixed length");
  std::string value(size, '\0');
  if (H5Aread(attribute.get(), type.get(), value.data()) < 0)
    fail(object, "attribute " + key + ": " + detail::hdf5_reason());
  return value.substr(0, value.find('\0'));
}

void Hdf5File::read_number(const std::string& object, const std::string& key, DType dtype,
                           void* out) const {
  const Hdf5Id attribute = open_attribute(object, key);
  const Hdf5Id type(H5Aget_type(attribute.get()), H5Tclose);
  const Hdf5Id space(H5Aget_space(attribute.get()), H5Sclose);
  const Hdf5Id wanted = detail::stored_type_id(dtype);
  if (H5Tequal(type.get(), wanted.get()) <= 0 ||
      H5Sget_simple_extent_type(space.get()) != H5S_SCALAR)
    fail(object, "attribute " + key + ": needs one " + dtype_name(dtype));
  if (H5Aread(attribute.get(), wanted.get(), out) < 0)
    fail(object, "attribute " + key + ": " + detail::hdf5_reason());
}

int64_t Hdf5File::integer_attribute(const std::string& object, const std::string& key) const {
  int64_t value = 0;
  read_number(object, key, DType::kI64, &value);
  return value;
}

double Hdf5File::number_attribute(const std::string& object, const std::string& key) const {
  double value = 0;
  read_number(object, key, DType::kF64, &value);
  return value;
}

std::string Hdf5File::text(const std::string& name) {
  const Hdf5Dataset data = dataset(name);
  if (data.dtype() != DType::kU8 || data.shape().size() != 1) fail(name, "needs u8 [n]");
  std::string bytes(static_cast<size_t>(data.shape()[0]), '\0');
  data.read(View(reinterpret_cast<std::byte*>(bytes.data()), DType::kU8, Device::kCpu,
                 {data.shape()[0]}));
  return bytes;
}

// --- a dataset --------------------------------------------------------------------------------------

Hdf5Dataset::Hdf5Dataset(Hdf5File& file, const std::string& name)
    : file_(&file), name_(name), id_(file.open_object(name)) {
  if (H5Iget_type(id_.get()) != H5I_DATASET) fail("not a dataset");
  read_layout();
  read_checksums();
}

void Hdf5Dataset::fail(const std::string& what) const {
  file_->fail(name_, what);
}

void Hdf5Dataset::read_layout() {
  const Hdf5Id type(H5Dget_type(id_.get()), H5Tclose);
  const std::optional<DType> dtype = detail::dtype_of_stored(type.get());
  if (!dtype) fail("a type that these files do not hold");
  dtype_ = *dtype;
  const Hdf5Id space(H5Dget_space(id_.get()), H5Sclose);
  const StoredExtents extents = extents_of(space.get());
  shape_ = extents.shape;
  if (extents.empty) return;
  const auto rank = static_cast<int>(shape_.size());
  if (rank < 1 || rank > detail::kMaxDims) fail(str("has ", rank, " dimensions, needs 1 to 3"));
  if (product(shape_, dtype_bytes(dtype_), file_->size_) < 0)
    fail(str("claims more bytes than the ", file_->size_, " of the file"));
  const Hdf5Id layout(H5Dget_create_plist(id_.get()), H5Pclose);
  if (H5Pget_layout(layout.get()) != H5D_CHUNKED || H5Pget_nfilters(layout.get()) != 0)
    fail("needs chunks without filters");
  std::array<hsize_t, H5S_MAX_RANK> chunk{};
  if (H5Pget_chunk(layout.get(), H5S_MAX_RANK, chunk.data()) != rank)
    fail("chunks of another number of dimensions");
  for (int d = 0; d < rank; ++d) {
    const hsize_t c = chunk[static_cast<size_t>(d)];
    const auto extent = static_cast<hsize_t>(shape_[static_cast<size_t>(d)]);
    if (c < 1 || c > extent || extent % c != 0)
      fail(str("chunks of ", c, " do not divide dimension ", d, " of ", extent));
    chunk_.push_back(static_cast<int64_t>(c));
  }
}

void Hdf5Dataset::read_checksums() {
  if (chunk_.empty()) return;
  int64_t count = 1;
  for (size_t d = 0; d < shape_.size(); ++d) count *= shape_[d] / chunk_[d];
  const Hdf5Id attribute = file_->open_attribute(name_, detail::kChecksumKey);
  const Hdf5Id type(H5Aget_type(attribute.get()), H5Tclose);
  const Hdf5Id space(H5Aget_space(attribute.get()), H5Sclose);
  const Shape shape = extents_of(space.get()).shape;
  if (H5Tequal(type.get(), H5T_STD_U32LE) <= 0 || shape != Shape{count})
    fail(str("attribute crc32c: needs one u32 for each of ", count, " chunks"));
  checksums_.resize(static_cast<size_t>(count));
  if (H5Aread(attribute.get(), H5T_STD_U32LE, checksums_.data()) < 0)
    fail("attribute crc32c: " + detail::hdf5_reason());
}

int64_t Hdf5Dataset::bytes() const {
  int64_t n = dtype_bytes(dtype_);
  for (const int64_t d : shape_) n *= d;
  return n;
}

int64_t Hdf5Dataset::prefix_bytes(const Shape& extents) const {
  int64_t n = dtype_bytes(dtype_);
  for (size_t d = 0; d < chunk_.size(); ++d)
    n *= (extents[d] + chunk_[d] - 1) / chunk_[d] * chunk_[d];
  return n;
}

uint32_t Hdf5Dataset::checksum_of(const Shape& at) const {
  int64_t place = 0;
  for (size_t d = 0; d < at.size(); ++d)
    place = place * (shape_[d] / chunk_[d]) + at[d] / chunk_[d];
  return checksums_[static_cast<size_t>(place)];
}

void Hdf5Dataset::load_chunk(const Shape& at, std::vector<std::byte>& bytes) const {
  const std::vector<hsize_t> offset(at.begin(), at.end());
  const auto where = [&] {
    std::string s = "chunk at [";
    for (size_t d = 0; d < at.size(); ++d) s += (d ? "," : "") + std::to_string(at[d]);
    return s + "]: ";
  };
  hsize_t stored = 0;
  if (H5Dget_chunk_storage_size(id_.get(), offset.data(), &stored) < 0 || stored != bytes.size())
    fail(where() + str(stored, " bytes stored, needs ", bytes.size()));
  uint32_t filters = 0;
  if (H5Dread_chunk(id_.get(), H5P_DEFAULT, offset.data(), &filters, bytes.data()) < 0)
    fail(where() + detail::hdf5_reason());
  file_->bytes_read_ += static_cast<int64_t>(bytes.size());
  const uint32_t found = crc32c(bytes);
  const uint32_t wanted = checksum_of(at);
  if (found != wanted)
    fail(where() + "its bytes have the CRC-32C " + crc32c_hex(found) + ", written were " +
         crc32c_hex(wanted));
}

void Hdf5Dataset::read(View out) const {
  Shape extents;
  for (int d = 0; d < out.rank(); ++d) extents.push_back(out.dim(d));
  bool fits = extents.size() == shape_.size();
  for (size_t d = 0; fits && d < shape_.size(); ++d) fits = extents[d] <= shape_[d];
  const bool converts = out.dtype() == DType::kF32 && dtype_ == DType::kBF16;
  if (!fits || (out.dtype() != dtype_ && !converts)) {
    std::string shape;
    for (const int64_t n : shape_) shape += (shape.empty() ? "[" : ",") + std::to_string(n);
    fail(shape + "] " + dtype_name(dtype_) + " read as " + out.describe());
  }
  if (out.size() == 0) return;
  const auto bytes = static_cast<size_t>(product(chunk_, dtype_bytes(dtype_), file_->size_));
  std::vector<std::byte> buffer(bytes);
  detail::for_each_chunk(extents, chunk_, [&](const Shape& at) {
    load_chunk(at, buffer);
    scatter(out, dtype_, detail::chunk_copy(out, chunk_, at), buffer.data());
  });
}

void Hdf5Dataset::verify() const {
  if (chunk_.empty()) return;
  const auto bytes = static_cast<size_t>(product(chunk_, dtype_bytes(dtype_), file_->size_));
  std::vector<std::byte> buffer(bytes);
  detail::for_each_chunk(shape_, chunk_, [&](const Shape& at) { load_chunk(at, buffer); });
}

}  // namespace nestling
