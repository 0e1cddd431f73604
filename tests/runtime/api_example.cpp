// api_example MODEL SIZE PROMPT - the example of docs/api.md, which runtime/api_example_test holds to this file.
#include <cstdio>

#include "runtime/chat_template.h"
#include "runtime/generator.h"

using namespace nestling;

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  try {
    LoadedModel model(argv[1], DType::kF32);  // directory, .gguf or elastic file: all of its sizes
    model.select(argv[2]);                    // a name, or a budget as 65%; no weight is copied
    const ChatTemplate turns(model.tokenizer_files(), model.name());
    const std::string text = turns.render({{.role = "user", .content = argv[3]}}, true);

    Context ctx(Device::kCpu);
    GenerateOptions options;
    options.max_new_tokens = 64;
    options.stop_tokens = model.config().eos;
    const std::vector<Generated> made =
        generate(ctx, model, {model.tokenizer().encode(text, false)}, options);
    std::printf("%s\n", model.tokenizer().decode(made[0].tokens).c_str());
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return static_cast<int>(e.kind());  // 1: at run time, 2: input
  }
}
