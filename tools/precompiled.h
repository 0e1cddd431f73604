// precompiled.h - the headers of tools/ that take seconds to read, compiled once. A source still
// includes what it uses. Nothing of this repository belongs here.
#pragma once
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
