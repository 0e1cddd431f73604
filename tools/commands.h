// commands.h - the subcommands of `nestling`: one file command_<name>.cpp each, one line here.
//
// A subcommand adds itself to the program; when it is the one chosen, its callback does the work
// and stores the exit code: 0 done, 1 failed at run time, 2 bad usage, config or input. Errors are
// thrown, as everywhere. What does not run on ranks is set up by in_one_process (one_process.h).
#pragma once

namespace CLI {
class App;
}

namespace nestling {

void add_bench_command(CLI::App& app, int& exit_code);
void add_chat_command(CLI::App& app, int& exit_code);
void add_eval_command(CLI::App& app, int& exit_code);
void add_export_command(CLI::App& app, int& exit_code);
void add_generate_command(CLI::App& app, int& exit_code);
void add_import_command(CLI::App& app, int& exit_code);
void add_inspect_command(CLI::App& app, int& exit_code);
void add_logits_command(CLI::App& app, int& exit_code);
void add_plan_command(CLI::App& app, int& exit_code);
void add_pretrain_command(CLI::App& app, int& exit_code);
void add_profile_command(CLI::App& app, int& exit_code);
void add_quantize_command(CLI::App& app, int& exit_code);
void add_report_command(CLI::App& app, int& exit_code);
void add_run_commands(CLI::App& app, int& exit_code);
void add_serve_command(CLI::App& app, int& exit_code);
void add_slice_command(CLI::App& app, int& exit_code);
void add_tokenizer_command(CLI::App& app, int& exit_code);
void add_verify_command(CLI::App& app, int& exit_code);
void add_verify_resume_command(CLI::App& app, int& exit_code);

inline constexpr void (*kCommands[])(CLI::App&, int&) = {
    add_bench_command,     add_chat_command,     add_eval_command,          add_export_command,
    add_generate_command,  add_import_command,   add_inspect_command,       add_logits_command,
    add_plan_command,      add_pretrain_command, add_profile_command,       add_quantize_command,
    add_report_command,    add_run_commands,     add_serve_command,         add_slice_command,
    add_tokenizer_command, add_verify_command,   add_verify_resume_command,
};

}  // namespace nestling
