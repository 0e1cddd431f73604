// elastic_header.h - the parts of an elastic file that are not weights, out and in; used by
// elastic_file alone.
#pragma once
#include "data/hdf5_file.h"
#include "data/hdf5_writer.h"
#include "model/elastic_file.h"

namespace nestling {

void write_elastic_parts(Hdf5Writer& out, const ElasticModel& model, StoredType precision);
ElasticModel read_elastic_parts(Hdf5File& in);  // all of it, checked

// Of the size of that name, in place of what is there.
void write_elastic_measured(Hdf5Writer& out, const std::string& size, const MeasuredQuality& m);

// Single parts, for those that need no more.
ModelConfig read_elastic_config(Hdf5File& in);  // and the format version
StoredType read_elastic_precision(Hdf5File& in);
std::vector<std::string> read_elastic_size_names(Hdf5File& in);  // largest first
std::map<std::string, std::string> read_elastic_texts(Hdf5File& in, const std::string& group);
Size read_elastic_size(Hdf5File& in, const ModelConfig& config, const std::string& name);
// The size of that name, or the router's for that budget (model/asked_size.h). Reads the router only then.
Size find_elastic_size(Hdf5File& in, const ModelConfig& config, const std::string& text);

}  // namespace nestling
