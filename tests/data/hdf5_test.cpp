// HDF5 files: what was written comes back bit for bit, prefixes read only their chunks, and no damage
// to the file gives another value or a crash.
#include <chrono>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <thread>
#include <unistd.h>

#include "data/hdf5_file.h"
#include "data/hdf5_writer.h"
#include "kernels/core/rng.h"
#include "kernels/core/tensor.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;

Tensor random_tensor(std::initializer_list<int64_t> shape, uint64_t seed) {
  Tensor t(Device::kCpu, DType::kF32, shape);
  Rng rng(seed);
  for (int64_t i = 0; i < t.size(); ++i) t.ptr<float>()[i] = static_cast<float>(rng.normal());
  return t;
}

fs::path write_sample(const TempDir& dir) {
  const fs::path file = dir.path() / "sample.h5";
  Hdf5Writer writer(file);
  writer.group("/model");
  writer.attribute("/model", "name", "tiny");
  writer.attribute("/model", "empty", "");
  writer.attribute("/model", "version", int64_t{7});
  writer.attribute("/model", "budget", 0.75);
  writer.text("/model/config", std::string("a\0b", 3));
  writer.text("/model/nothing", "");
  const Tensor cube = random_tensor({4, 6, 8}, 1);
  writer.dataset("/weights/layer.0/cube", DType::kF32, cube.view(), {2, 3, 4});
  writer.dataset("/weights/layer.0/half", DType::kBF16, cube.view(), {4, 6, 4});
  const Tensor row = random_tensor({40}, 2);
  writer.dataset("/weights/row", DType::kF32, row.view(), {8});
  writer.commit();
  return file;
}

TEST(Hdf5, WhatWasWrittenComesBack) {
  const TempDir dir;
  Hdf5File file(write_sample(dir));
  EXPECT_EQ(file.text_attribute("/model", "name"), "tiny");
  EXPECT_EQ(file.text_attribute("/model", "empty"), "");
  EXPECT_EQ(file.integer_attribute("/model", "version"), 7);
  EXPECT_EQ(file.number_attribute("/model", "budget"), 0.75);
  EXPECT_EQ(file.text("/model/config"), std::string("a\0b", 3));
  EXPECT_EQ(file.text("/model/nothing"), "");
  EXPECT_EQ(file.names("/weights"), (std::vector<std::string>{"layer.0", "row"}));
  EXPECT_TRUE(file.is_group("/weights/layer.0"));
  EXPECT_FALSE(file.is_group("/weights/row"));
  EXPECT_FALSE(file.has("/weights/absent/x"));
  const Tensor cube = random_tensor({4, 6, 8}, 1);
  Tensor read(Device::kCpu, DType::kF32, {4, 6, 8});
  file.dataset("/weights/layer.0/cube").read(read);
  for (int64_t i = 0; i < cube.size(); ++i) EXPECT_EQ(read.ptr<float>()[i], cube.ptr<float>()[i]);
  file.dataset("/weights/layer.0/half").read(read);
  for (int64_t i = 0; i < cube.size(); ++i)
    EXPECT_EQ(read.ptr<float>()[i], static_cast<float>(bf16(cube.ptr<float>()[i])));
}

TEST(Hdf5, TheSameContentIsTheSameBytes) {
  const TempDir dir, later;
  const std::string bytes = testing::read_bytes(write_sample(dir));
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5 would store whole seconds
  EXPECT_TRUE(testing::read_bytes(write_sample(later)) == bytes);
}

TEST(Hdf5, APrefixReadsItsChunksAlone) {
  const TempDir dir;
  Hdf5File file(write_sample(dir));
  const Tensor cube = random_tensor({4, 6, 8}, 1);
  const Hdf5Dataset data = file.dataset("/weights/layer.0/cube");
  Tensor space(Device::kCpu, DType::kF32, {4, 6, 8});
  std::fill_n(space.ptr<float>(), space.size(), -7.0f);
  const View out = space.view().prefix(0, 2).prefix(1, 3).prefix(2, 5);
  const int64_t before = file.bytes_read();
  data.read(out);
  EXPECT_EQ(file.bytes_read() - before, 2 * 3 * 8 * 4);
  EXPECT_EQ(data.prefix_bytes({2, 3, 5}), 2 * 3 * 8 * 4);
  for (int64_t i = 0; i < 4; ++i)
    for (int64_t j = 0; j < 6; ++j)
      for (int64_t k = 0; k < 8; ++k) {
        const int64_t at = (i * 6 + j) * 8 + k;
        const float wanted = i < 2 && j < 3 && k < 5 ? cube.ptr<float>()[at] : -7.0f;
        EXPECT_EQ(space.ptr<float>()[at], wanted) << i << " " << j << " " << k;
      }
}

TEST(Hdf5, MoreChecksumsThanAnObjectHeaderHolds) {
  const TempDir dir;
  const fs::path path = dir.path() / "many.h5";
  const Tensor row = random_tensor({40000}, 2);
  {
    Hdf5Writer writer(path);
    writer.dataset("/row", DType::kF32, row.view(), {2});
    writer.commit();
  }
  Hdf5File file(path);
  Tensor read(Device::kCpu, DType::kF32, {40000});
  file.dataset("/row").read(read);
  EXPECT_TRUE(std::equal(row.ptr<float>(), row.ptr<float>() + 40000, read.ptr<float>()));
}

TEST(Hdf5, WhatDoesNotFitIsRefusedByName) {
  const TempDir dir;
  Hdf5File file(write_sample(dir));
  Tensor wide(Device::kCpu, DType::kF32, {41});
  Tensor whole(Device::kCpu, DType::kI64, {40});
  expect_error([&] { file.dataset("/weights/row").read(wide); },
               {"sample.h5", "/weights/row", "[40] f32", "[41]"});
  expect_error([&] { file.dataset("/weights/row").read(whole); }, {"f32", "i64"});
  expect_error([&] { file.dataset("/weights/none"); }, {"sample.h5", "/weights/none"});
  expect_error([&] { file.dataset("/weights"); }, {"/weights", "not a dataset"});
  expect_error([&] { file.integer_attribute("/model", "name"); }, {"/model", "name", "i64"});
  expect_error([&] { file.text_attribute("/model", "none"); }, {"/model", "none"});
  expect_error([&] { Hdf5File(dir.path() / "none.h5"); }, {"none.h5"});
  const fs::path text = dir.write("text.h5", "no HDF5 file at all, but long enough");
  expect_error([&] { Hdf5File{text}; }, {"text.h5", "not an HDF5 file"});
}

TEST(Hdf5, WithoutCommitNothingIsLeft) {
  const TempDir dir;
  const fs::path path = dir.path() / "x.h5";
  {
    Hdf5Writer writer(path);
    writer.text("/t", "x");
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

// Everything the sample holds, as one string; throws what reading throws.
std::string everything(const fs::path& path) {
  Hdf5File file(path);
  std::string all = file.text_attribute("/model", "name") + file.text_attribute("/model", "empty") +
                    str(file.integer_attribute("/model", "version"), " ",
                        file.number_attribute("/model", "budget"));
  const std::function<void(const std::string&)> walk = [&](const std::string& group) {
    for (const std::string& name : file.names(group.empty() ? "/" : group)) {
      const std::string full = group + "/" + name;
      all += full;
      if (file.is_group(full)) {
        walk(full);
        continue;
      }
      const Hdf5Dataset data = file.dataset(full);
      std::string bytes(static_cast<size_t>(data.bytes()), '\0');
      Extents shape{};
      std::copy(data.shape().begin(), data.shape().end(), shape.begin());
      data.read(View(reinterpret_cast<std::byte*>(bytes.data()), data.dtype(), Device::kCpu, shape,
                     static_cast<int>(data.shape().size())));
      all += bytes;
    }
  };
  walk("");
  return all;
}

TEST(Hdf5, NoFlippedBitGivesAnotherValue) {
  const TempDir dir;
  const fs::path good = write_sample(dir);
  const std::string bytes = testing::read_bytes(good);
  const std::string wanted = everything(good);
  Rng rng(4);
  int detected = 0, harmless = 0;
  for (int i = 0; i < 1500; ++i) {
    std::string bad = bytes;
    const uint64_t bit = rng.below(8 * bytes.size());
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    const fs::path file = dir.write("bad.h5", bad);
    try {
      EXPECT_EQ(everything(file), wanted) << "bit " << bit;
      ++harmless;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInput) << e.what();
      EXPECT_NE(std::string(e.what()).find("bad.h5"), std::string::npos) << e.what();
      ++detected;
    }
  }
  RecordProperty("detected", detected);
  RecordProperty("harmless", harmless);
  EXPECT_GT(detected, 1000);
}

TEST(Hdf5, TruncationIsDetected) {
  const TempDir dir;
  const std::string bytes = testing::read_bytes(write_sample(dir));
  for (size_t n = 1; n < bytes.size(); n *= 2) {
    const fs::path file = dir.write("bad.h5", bytes.substr(0, n));
    expect_error([&] { everything(file); }, {"bad.h5"});
  }
}

// A file by the library itself, with a dataset as a damaged or hostile writer would make it.
fs::path hostile(const TempDir& dir, std::vector<hsize_t> extents, std::vector<hsize_t> chunk) {
  const fs::path path = dir.path() / "hostile.h5";
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_libver_bounds(access, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access);
  const hid_t space = H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr);
  const hid_t layout = H5Pcreate(H5P_DATASET_CREATE);
  if (!chunk.empty()) H5Pset_chunk(layout, static_cast<int>(chunk.size()), chunk.data());
  const hid_t data = H5Dcreate2(file, "x", H5T_IEEE_F32LE, space, H5P_DEFAULT, layout, H5P_DEFAULT);
  EXPECT_GE(data, 0);
  H5Lcreate_soft("/x", file, "soft", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_external("/etc/hostname", "/x", file, "external", H5P_DEFAULT, H5P_DEFAULT);
  H5Dclose(data);
  H5Pclose(layout);
  H5Sclose(space);
  H5Fclose(file);
  H5Pclose(access);
  return path;
}

TEST(Hdf5, AbsurdHeadersAreRefusedBeforeAllocation) {
  const TempDir dir;
  const auto refused = [&](std::vector<hsize_t> extents, std::vector<hsize_t> chunk,
                           const char* says) {
    const fs::path path = hostile(dir, std::move(extents), std::move(chunk));
    Hdf5File file(path);
    expect_error([&] { file.dataset("/x"); }, {"hostile.h5", "/x", says});
    expect_error([&] { file.dataset("/soft"); }, {"/soft", "link"});
    expect_error([&] { file.dataset("/external"); }, {"/external", "link"});
  };
  refused({hsize_t{1} << 60}, {1 << 20}, "more bytes");
  refused({hsize_t{1} << 31, hsize_t{1} << 31, hsize_t{1} << 31}, {1, 1, 1}, "more bytes");
  refused({64}, {}, "chunks");
  refused({64}, {24}, "divide");
  refused({2, 2, 2, 2}, {1, 1, 1, 1}, "dimensions");
  refused({8}, {8}, "crc32c");
}

}  // namespace
}  // namespace nestling
