#!/usr/bin/env perl
# extract.pl SOURCE DIR - clean English prose from one unpacked Debian package, as JSON lines.
#
# DIR           where `dpkg-deb -x` unpacked the package.
# Out           {"text":...,"source":...} a line, one document each, in a fixed order.
# Documents     a section of the essays, a psalm's commentary in pieces of about 6,000 characters, a
#               chapter of a book, 24 neighbouring dictionary entries, a manual page.
# The filter    a paragraph stays when it has 80 characters or more, more than 88% of them ASCII
#               letters and spaces, and punctuation that ends a sentence. Quotes and dashes become
#               ASCII.
# Needs         perl with its own modules only (Compress::Zlib, IO::Uncompress::Gunzip).
use strict;
use warnings;
use Compress::Zlib ();
use Encode ();
use IO::Uncompress::Gunzip ();

my $DICTIONARY_ENTRIES = 24;
my $PIECE_CHARACTERS = 6000;

my %readers = (
  'anarchism' => \&anarchism,
  'sword-comm-tdavid' => \&tdavid,
  'sword-text-web' => \&web,
  'wordnet-base' => \&wordnet,
  'dict-gcide' => \&gcide,
  'r-cran-janeaustenr' => \&austen,
  'bible-kjv' => \&kjv,
  'postgresql-doc-15' => \&postgresql,
  'fortunes' => \&fortunes,
);

my ($source, $dir) = @ARGV;
die "usage: extract.pl SOURCE DIR; sources: @{[sort keys %readers]}\n"
  unless @ARGV == 2 && $readers{$source} && -d $dir;

# Documents and paragraphs ------------------------------------------------------------------------

sub plain {
  my ($text) = @_;
  $text =~ s/[\x{2018}\x{2019}\x{201b}\x{2032}]/'/g;
  $text =~ s/[\x{201c}\x{201d}\x{201e}\x{2033}]/"/g;
  $text =~ s/[\x{2012}-\x{2015}]/ - /g;
  $text =~ s/\x{2026}/.../g;
  $text =~ s/[\x{00ad}\x{200b}\x{feff}]//g;
  $text =~ s/[\s\x{00a0}]+/ /g;
  $text =~ s/^ | $//g;
  return $text;
}

sub is_prose {
  my ($text) = @_;
  return 0 if length($text) < 80 || $text !~ /[.!?]["')\]]*(?:\s|$)/;
  my $letters = $text =~ tr/A-Za-z //;
  return $letters > 0.88 * length $text;
}

sub json_string {
  my ($text) = @_;
  $text =~ s/(["\\])/\\$1/g;
  $text =~ s/\n/\\n/g;
  $text =~ s/([\x00-\x1f\x7f])/sprintf '\\u%04x', ord $1/ge;
  return '"' . Encode::encode('UTF-8', $text) . '"';
}

sub emit {
  my @paragraphs = @_;
  return unless @paragraphs;
  print '{"text":', json_string(join("\n\n", @paragraphs) . "\n"), ',"source":"', $source, "\"}\n";
}

# Prose among the paragraphs, as one document.
sub emit_prose { emit(grep { is_prose($_) } map { plain($_) } @_) }

# The same, cut between paragraphs once a piece is long enough.
sub emit_pieces {
  my @piece;
  my $size = 0;
  for my $paragraph (grep { is_prose($_) } map { plain($_) } @_) {
    push @piece, $paragraph;
    $size += length $paragraph;
    next if $size < $PIECE_CHARACTERS;
    emit(@piece);
    @piece = ();
    $size = 0;
  }
  emit(@piece);
}

# Files -------------------------------------------------------------------------------------------

sub slurp {
  my ($file) = @_;
  open my $in, '<:raw', $file or die "$file: $!\n";
  local $/;
  return scalar <$in>;
}

sub slurp_text { return Encode::decode('UTF-8', slurp($_[0])) }

my %ENTITIES = (amp => '&', lt => '<', gt => '>', quot => '"', nbsp => ' ', mdash => "\x{2014}",
                ndash => "\x{2013}", hellip => '...', lsquo => "'", rsquo => "'", ldquo => '"',
                rdquo => '"', apos => "'");

sub without_tags {
  my ($html) = @_;
  $html =~ s/<[^>]*>//g;
  $html =~ s/&#(\d+);/chr $1/ge;
  $html =~ s/&#x([0-9a-f]+);/chr hex $1/gie;
  $html =~ s/&(\w+);/exists $ENTITIES{$1} ? $ENTITIES{$1} : " "/ge;
  return $html;
}

sub paragraphs_of_html { return map { without_tags($_) } $_[0] =~ m{<p\b[^>]*>(.*?)</p>}gis }

# A SWORD module: blocks of zlib, found by an index of (offset, bytes, bytes unpacked).
sub sword_blocks {
  my ($stem) = @_;    # .../ot.cz or .../ot.bz
  my $index = slurp("${stem}s");
  my $data = slurp("${stem}z");
  my @blocks;
  for my $i (0 .. length($index) / 12 - 1) {
    my ($offset, $bytes, $unpacked) = unpack 'VVV', substr $index, 12 * $i, 12;
    my $text = Compress::Zlib::uncompress(substr $data, $offset, $bytes);
    die "${stem}z: block $i is damaged\n" unless defined $text && length $text == $unpacked;
    push @blocks, Encode::decode('UTF-8', $text);
  }
  return @blocks;
}

# Sources -----------------------------------------------------------------------------------------

sub anarchism {
  for my $file (sort glob "$dir/usr/share/doc/anarchism/html/*.html") {
    emit_prose(paragraphs_of_html($_)) for split /(?=<h[1-3]\b)/i, slurp_text($file);
  }
}

sub tdavid {
  my @blocks = sword_blocks("$dir/usr/share/sword/modules/comments/zcom/tdavid/ot.cz");
  for my $block (@blocks) {
    my @paragraphs = split m{<div [se]ID="[^"]*" type="x-p"/>|<title|</title>}, $block;
    emit_pieces(map { without_tags($_) } @paragraphs);
  }
}

# The World English Bible, a chapter a document; the notes of its translators are left out.
sub web {
  my $modules = "$dir/usr/share/sword/modules/texts/ztext/engWEB2015eb";
  for my $block (sword_blocks("$modules/ot.bz"), sword_blocks("$modules/nt.bz")) {
    $block =~ s{<note\b.*?</note>}{ }gs;
    $block =~ s{<title\b.*?</title>}{\n\n}gs;
    for my $chapter (split /(?=<chapter n="[^"]*" osisID="[^"]*" sID)/, $block) {
      $chapter =~ s{<div [se]ID="[^"]*" type="x-p"/>|<lg\b[^>]*>}{\n\n}g;
      # Where a word ends, a line of verse or a verse begins, there is a space between words.
      $chapter =~ s{<(?:l|verse|milestone)\b[^>]*>}{ }g;
      $chapter = without_tags($chapter);
      $chapter =~ s/ +([,.;:!?])/$1/g;
      $chapter =~ s/([,.;:!?])(?=[A-Za-z])/$1 /g;
      emit_prose(split /\n\n+/, $chapter);
    }
  }
}

sub wordnet {
  for my $kind (qw(noun verb adj adv)) {
    my @entries;
    for my $line (split /\n/, slurp_text("$dir/usr/share/wordnet/data.$kind")) {
      next if $line =~ /^  /;    # the licence
      my ($fields, $gloss) = split / \| /, $line, 2;
      my @fields = split / /, $fields;
      my @words = map { $fields[4 + 2 * $_] } 0 .. hex($fields[3]) - 1;
      s/\((?:a|p|ip)\)$//, tr/_/ / for @words;
      $gloss = plain($gloss);
      $gloss =~ s/[.;]?$/./;
      push @entries, ucfirst(join ', ', @words) . ": $gloss";
    }
    while (my @group = splice @entries, 0, $DICTIONARY_ENTRIES) { emit(@group) }
  }
}

# Webster 1913. An entry: a line with the word, its pronunciation in \...\, then its grammar; then
# indented paragraphs.
sub gcide {
  my $file = "$dir/usr/share/dictd/gcide.dict.dz";
  IO::Uncompress::Gunzip::gunzip($file => \my $raw, MultiStream => 1)
    or die "$file: $IO::Uncompress::Gunzip::GunzipError\n";
  my ($word, @entries);
  for my $paragraph (split /\n\s*\n/, Encode::decode('UTF-8', $raw)) {
    if ($paragraph =~ /^\n*(\S[^\\\n]*?) \\/) {
      $word = $1;
      # The grammar ends where the indented text begins.
      $paragraph =~ s/^\n*\S.*?(?:\n(?=   \S.*)|\z)//s;
      $paragraph = '' if $paragraph =~ /^\s{3,}[^\n]*\]\s*$/;
    }
    next unless defined $word;
    $paragraph =~ s/\[1913 Webster\]|\[(?:PJC|WordNet[^\]]*|Webster[^\]]*|RH|AS|RP)[^\]]*\]//g;
    $paragraph =~ s/\[[^\]]{1,6}\]//g;               # letters that ASCII lacks
    $paragraph =~ s/[{}_]//g;
    $paragraph =~ s/--\s*[A-Z][^.\n]*\.?//g;         # who is quoted
    $paragraph =~ s/^\s*(?:\d+\.|\([a-z]\))\s*//;    # number of the sense
    my $text = plain($paragraph);
    next if $text =~ /^(?:Note:|Syn:|See |Usage:)/ || $text !~ /^[A-Z("]/;
    my $entry = "$word: $text";
    push @entries, $entry if is_prose($entry);
    emit(splice @entries) if @entries == $DICTIONARY_ENTRIES;
  }
  emit(@entries);
}

# R's .rdb: records of (4 bytes of length, zlib, R serialisation). Six of them are the novels: one
# character vector of lines each.
sub austen {
  my $file = "$dir/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb";
  my $rdb = slurp($file);
  my $novels = 0;
  while ($rdb =~ /[\x00-\xff]{4}x[\x01\x5e\x9c\xda]/g) {
    my $from = $-[0] + 4;
    my $unpacked = unpack 'N', substr $rdb, $-[0], 4;
    my $inflate = Compress::Zlib::inflateInit();
    my $rest = substr $rdb, $from;
    my $lines = $inflate->inflate($rest);
    next unless defined $lines && length $lines == $unpacked && $unpacked > 100_000;
    pos($rdb) = length($rdb) - length $rest;
    emit_chapters(r_strings($lines));
    ++$novels;
  }
  die "$file: found $novels novels, needs 6\n" unless $novels == 6;
}

# The strings of one serialised character vector: CHARSXP = flags ending in 9, length, bytes.
sub r_strings {
  my ($data) = @_;
  my @strings;
  while ($data =~ /\G[\x00-\xff]*?\x00[\x00-\xff]{2}\x09([\x00-\xff]{4})/g) {
    my $length = unpack 'N', $1;
    next if $length > 10_000;
    push @strings, Encode::decode('UTF-8', substr $data, pos $data, $length);
    pos($data) += $length;
  }
  return @strings;
}

sub emit_chapters {
  my @lines = map { /^\s*chapter\b/i ? ("\f", $_) : $_ } @_;
  for my $chapter (split /\f/, join "\n", @lines) { emit_prose(split /\n\s*\n/, $chapter) }
}

# The text is compressed in a way of its own: the package's program reads it.
sub kjv {
  my $text = "$dir/../bible-kjv-text/usr/lib";
  open my $in, '-|', "$dir/usr/bin/bible", '-p', $text, '-f', 'gen1:1-rev22:21'
    or die "$dir/usr/bin/bible: $!\n";
  my ($chapter, @verses) = ('');
  while (my $line = <$in>) {
    my ($of, $verse) = $line =~ /^(\w+\d+):\d+ (.*)$/ or next;
    emit_prose(join ' ', splice @verses) if $of ne $chapter;
    $chapter = $of;
    push @verses, $verse;
  }
  emit_prose(join ' ', @verses);
  close $in or die "$dir/usr/bin/bible failed: $?\n";
}

sub postgresql {
  for my $file (sort glob "$dir/usr/share/doc/postgresql-doc-15/html/*.html") {
    emit_prose(paragraphs_of_html(slurp_text($file)));
  }
}

# Sayings; those at the expense of groups of people are left out.
sub fortunes {
  my @files = qw(computers debian definitions education food goedel humorists kids law literature
                 medicine miscellaneous news paradoxum people perl pets platitudes riddles science
                 songs-poems sports startrek translate-me wisdom work zippy);
  for my $file (map { "$dir/usr/share/games/fortunes/$_" } @files) {
    next unless -f $file;
    emit_prose(split /\n\s*\n|\n(?=\t)/, $_) for split /^%\n/m, slurp_text($file);
  }
}

binmode STDOUT;
$readers{$source}->();    # last: the tables above are filled by now
