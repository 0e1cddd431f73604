// The scripts that take text out of packages, on small packages made here. Nothing is downloaded.
#include <cstdlib>
#include <gtest/gtest.h>
#include <set>

#include "data/text_source.h"
#include "kernels/core/check.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

using testing::read_bytes;
using testing::TempDir;
using Strings = std::vector<std::string>;

class Corpus : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* source_dir = std::getenv("NESTLING_SOURCE_DIR");
    if (!source_dir) GTEST_SKIP() << "NESTLING_SOURCE_DIR is not set: run by ctest";
    scripts_ = std::string(source_dir) + "/data/corpus";
    if (std::system("perl -MCompress::Zlib -e1") != 0) GTEST_SKIP() << "perl is not installed";
  }
  void put(const std::string& file, const std::string& bytes) const {
    const auto path = dir_.path() / file;
    std::filesystem::create_directories(path.parent_path());
    dir_.write(file, bytes);
  }
  int run(const std::string& command) const {
    return std::system(str("cd ", dir_.path().string(), " && ", command).c_str());
  }
  Strings extract(const std::string& source) const {
    EXPECT_EQ(run(str("perl ", scripts_, "/extract.pl ", source, " . >", source, ".jsonl")), 0);
    return documents(source + ".jsonl");
  }
  Strings documents(const std::string& file) const {
    Strings found;
    const auto source = open_text((dir_.path() / file).string());
    for (std::string text; source->next(text);) found.push_back(text);
    return found;
  }
  TempDir dir_;
  std::string scripts_;
};

const std::string kProse =
    "It is a truth known to all that a paragraph of prose has more than eighty characters in it.";

TEST_F(Corpus, TakesProseOutOfHtmlBySection) {
  put("usr/share/doc/anarchism/html/a.html",
      "<html><p>Short.</p><p>It&#8217;s &quot;<i>so</i>&quot;\n &amp; " + kProse +
          "</p><p>1234567890 1234567890 1234567890 1234567890 1234567890 1234567890 12345678.</p>"
          "<h2>Next</h2><p class=\"x\">" +
          kProse +
          "</p><p>The other paragraph of this section is also long enough to be kept, "
          "I hope\xe2\x80\x94yes.</p></html>");
  EXPECT_EQ(extract("anarchism"),
            (Strings{"It's \"so\" & " + kProse + "\n",
                     kProse + "\n\nThe other paragraph of this section is also long enough to be "
                              "kept, I hope - yes.\n"}));
}

TEST_F(Corpus, ReadsWordNetAndSwordModules) {
  for (const char* kind : {"noun", "adj", "adv"})
    put(str("usr/share/wordnet/data.", kind), "  1\n");
  put("usr/share/wordnet/data.verb",
      "  1 This is a licence.\n"
      "00000001 29 v 02 catch_breath 0 rest(a) 1 001 @ 00000002 v 0000 | take a short break  \n");
  EXPECT_EQ(extract("wordnet-base"), Strings{"Catch breath, rest: take a short break.\n"});

  const std::string module = "usr/share/sword/modules/comments/zcom/tdavid/";
  put(module + "text", "<div sID=\"gen3\" type=\"x-p\"/> <hi>" + kProse +
                           "</hi> <div eID=\"gen3\" type=\"x-p\"/><title>No</title>");
  ASSERT_EQ(run(str("cd ", module,
                    " && perl -MCompress::Zlib -0777 -e 'open F, \"<text\"; $t = <F>; $z = "
                    "compress($t); open Z, \">ot.czz\"; print Z \"xx$z\"; open S, \">ot.czs\"; "
                    "print S pack(\"VVV\", 2, length $z, length $t)'")),
            0);
  EXPECT_EQ(extract("sword-comm-tdavid"), Strings{kProse + "\n"});
}

TEST_F(Corpus, RefusesAnUnknownSourceAndDamage) {
  EXPECT_NE(run(str("perl ", scripts_, "/extract.pl nothing . 2>err")), 0);
  EXPECT_NE(read_bytes(dir_.path() / "err").find("anarchism"), std::string::npos);
  const std::string module = "usr/share/sword/modules/comments/zcom/tdavid/";
  put(module + "ot.czs", std::string("\0\0\0\0\4\0\0\0\4\0\0\0", 12));
  put(module + "ot.czz", "junk");
  EXPECT_NE(run(str("perl ", scripts_, "/extract.pl sword-comm-tdavid . 2>err")), 0);
  EXPECT_NE(read_bytes(dir_.path() / "err").find("block 0 is damaged"), std::string::npos);
}

// Every paragraph lands in one file only, once; one document in about a hundred is held out.
TEST_F(Corpus, SplitsByDocumentAndKeepsParagraphsOnce) {
  std::string train;
  for (int i = 0; i < 2000; ++i)
    train += str("{\"text\":\"shared\\n\\nown \\\\", i, "\\\\n\\n\\nline ", i,
                 "\\n\",\"source\":\"b\"}\n");
  put("b.jsonl", train);
  put("a.jsonl", "{\"text\":\"line 7\\n\\nshared\\n\",\"source\":\"a\"}\n");
  std::filesystem::create_directory(dir_.path() / "out");
  ASSERT_EQ(run(str("perl ", scripts_, "/split.pl . b=train a=ood >counts")), 0);
  EXPECT_EQ(documents("out/ood-a.jsonl"), Strings{"line 7\n\nshared\n"});
  const Strings kept = documents("out/train.jsonl");
  const Strings valid = documents("out/valid.jsonl");
  EXPECT_EQ(kept.size() + valid.size(), 2000u);
  // Binomial(2000, 1/100): 20 +- 4.45; six standard deviations.
  EXPECT_NEAR(static_cast<double>(valid.size()), 20.0, 6 * 4.45);
  std::set<std::string> all(kept.begin(), kept.end());
  all.insert(valid.begin(), valid.end());
  EXPECT_TRUE(all.contains("own \\7\\n\n"));  // "shared" and "line 7" came before
  EXPECT_TRUE(all.contains("own \\8\\n\n\nline 8\n")) << kept[8];
  EXPECT_EQ(read_bytes(dir_.path() / "counts").substr(0, 8), "a\tood\t1\t");
}

}  // namespace
}  // namespace nestling
