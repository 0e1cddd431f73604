#!/usr/bin/env perl
# split.pl DIR SOURCE=USE... - the documents of all sources, dealt to train, valid and ood files.
#
# In            DIR/SOURCE.jsonl as extract.pl writes them. USE is "train" or "ood".
# Out           DIR/out/: train.jsonl, valid.jsonl (1 document in 100 of the train sources, chosen by
#               the MD5 of its text), ood-SOURCE.jsonl; on stdout one line a source:
#               SOURCE USE documents bytes sha256, over its lines wherever they went.
# Once          a paragraph that came before, in any source, is left out: nothing of ood or valid is
#               in train word for word. Sources of ood are read first.
use strict;
use warnings;
use Digest::MD5 ();
use Digest::SHA ();

my ($dir, @specs) = @ARGV;
die "usage: split.pl DIR SOURCE=USE...\n" unless @specs;
my %use = map { /^([\w.-]+)=(train|ood)$/ ? ($1, $2) : die "$_: needs SOURCE=train or =ood\n" } @specs;
my @order = map { (split /=/)[0] } @specs;

my %out;
sub out {
  my ($name) = @_;
  return $out{$name} if $out{$name};
  open $out{$name}, '>:raw', "$dir/out/$name.jsonl" or die "$dir/out/$name.jsonl: $!\n";
  return $out{$name};
}

my %seen;
sub deal {
  my ($source, $keep_in) = @_;
  my ($documents, $bytes, $sha) = (0, 0, Digest::SHA->new(256));
  open my $in, '<:raw', "$dir/$source.jsonl" or die "$dir/$source.jsonl: $!\n";
  while (my $line = <$in>) {
    my ($text) = $line =~ /^\{"text":"(.*)\\n","source":"[^"]*"\}$/
      or die "$dir/$source.jsonl:$.: not as extract.pl writes it\n";
    my $held_out = hex(substr Digest::MD5::md5_hex($text), 0, 8) % 100 == 0;
    # Paragraphs are apart by two escaped line ends; a doubled backslash before an n is text.
    my @paragraphs = grep { !$seen{Digest::MD5::md5($_)}++ }
      split /(?<!\\)(?:\\\\)*\K\\n\\n/, $text;
    next unless @paragraphs;
    my $document = '{"text":"' . join('\n\n', @paragraphs) . qq(\\n","source":"$source"}\n);
    my $file = out($keep_in eq 'ood' ? "ood-$source" : $held_out ? 'valid' : 'train');
    print $file $document or die "$dir/out: $!\n";
    $sha->add($document);
    ++$documents;
    $bytes += length $document;
  }
  die "$dir/$source.jsonl: no document\n" unless $documents;
  print join("\t", $source, $keep_in, $documents, $bytes, $sha->hexdigest), "\n";
}

deal($_, 'ood') for grep { $use{$_} eq 'ood' } @order;
deal($_, 'train') for grep { $use{$_} eq 'train' } @order;
for my $name (sort keys %out) { close $out{$name} or die "$dir/out/$name.jsonl: $!\n" }
