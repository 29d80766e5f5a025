//go:build gotorch

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// A tokenizer gives the ids that Hugging Face's gives for BERT: WordPiece over cleaned text. Theirs knows accents and punctuation
// by Unicode 8, so that a word with a younger one can differ.
type tokenizer struct {
	Limit          int              `json:"max_seq_length"` // of the ids, with those around every text; the text's end is left out
	before, behind []int64          // every text: [CLS] and [SEP]
	rest           map[string]int64 // the vocabulary's pieces that go on with a word, without their prefix
	special        *regexp.Regexp   // what is a token as it stands, such as [MASK]
	ids            map[string]int64
	Tokens         []struct {
		ID                         int64
		Content                    string
		Normalized, LStrip, RStrip bool
		Single                     bool `json:"single_word"`
	} `json:"added_tokens"`
	Normalizer struct {
		Type      string
		Clean     bool  `json:"clean_text"`
		Chinese   bool  `json:"handle_chinese_chars"`
		Strip     *bool `json:"strip_accents"` // nil: if Lowercase
		Lowercase bool
	}
	Pre   struct{ Type string } `json:"pre_tokenizer"`
	Model struct {
		Type    string
		Unknown string `json:"unk_token"`
		Prefix  string `json:"continuing_subword_prefix"`
		Longest int    `json:"max_input_chars_per_word"` // a longer word is unknown
		Vocab   map[string]int64
	}
	Post struct {
		Type   string
		Single []struct{ SpecialToken, Sequence *struct{ ID string } }
		Tokens map[string]struct{ IDs []int64 } `json:"special_tokens"`
	} `json:"post_processor"`
}

// ReadTokenizer reads a model's tokenizer.json, and from beside it how long a text may be.
func readTokenizer(folder string) (*tokenizer, error) {
	t := &tokenizer{Limit: 512, rest: map[string]int64{}, ids: map[string]int64{}} // BERT has 512 positions
	for _, name := range []string{"sentence_bert_config.json", "tokenizer.json"} {
		path := filepath.Join(folder, name)
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && name != "tokenizer.json" {
			continue
		}
		if err == nil {
			err = json.Unmarshal(content, t)
		}
		if name == "tokenizer.json" && (err == nil || errors.As(err, new(*json.UnmarshalTypeError))) {
			err = cmp.Or(t.prepare(), err) // a vocabulary of another shape is another model's
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return t, nil
}

func (t *tokenizer) prepare() error {
	got := []string{t.Model.Type, t.Normalizer.Type, t.Pre.Type, t.Post.Type}
	want := []string{"WordPiece", "BertNormalizer", "BertPreTokenizer", "TemplateProcessing"}
	if !slices.Equal(got, want) {
		return fmt.Errorf("its parts are %q; only %q are understood", got, want)
	}
	if _, known := t.Model.Vocab[t.Model.Unknown]; !known {
		return fmt.Errorf("unknown words are %q, which is not in the vocabulary", t.Model.Unknown)
	}
	for piece, id := range t.Model.Vocab {
		if rest, found := strings.CutPrefix(piece, t.Model.Prefix); found {
			t.rest[rest] = id
		}
	}
	ids := &t.before
	for _, part := range t.Post.Single {
		if part.Sequence != nil {
			ids = &t.behind
		} else if part.SpecialToken != nil {
			*ids = append(*ids, t.Post.Tokens[part.SpecialToken.ID].IDs...)
		}
	}
	patterns := []string{}
	for _, token := range t.Tokens {
		if token.Normalized || token.LStrip || token.RStrip || token.Single || token.Content == "" {
			return fmt.Errorf("token %q has a flag that is not understood, or is empty", token.Content)
		}
		t.ids[token.Content] = token.ID
		patterns = append(patterns, regexp.QuoteMeta(token.Content))
	}
	t.special = regexp.MustCompile(cmp.Or(strings.Join(patterns, "|"), `[^\x00-\x{10FFFF}]`)) // nothing, if there is no token
	t.special.Longest()
	return nil
}

// Encode returns a text's ids. A byte that is not UTF-8 counts as U+FFFD, which is cleaned away.
func (t *tokenizer) Encode(text string) []int64 {
	ids := slices.Clone(t.before)
	limit := max(t.Limit-len(t.behind), len(ids))
	for text != "" && len(ids) < limit {
		found := t.special.FindStringIndex(text)
		if found == nil {
			found = []int{len(text), len(text)}
		}
		for word := range strings.FieldsSeq(t.normalize(text[:found[0]])) {
			if ids = t.pieces(ids, word); len(ids) >= limit {
				break
			}
		}
		if found[0] < found[1] {
			ids = append(ids, t.ids[text[found[0]:found[1]]])
		}
		text = text[found[1]:]
	}
	return append(ids[:min(len(ids), limit)], t.behind...)
}

// Normalize returns a text with spaces between what are words to BERT.
func (t *tokenizer) normalize(text string) string {
	n, out := &t.Normalizer, strings.Builder{}
	out.Grow(len(text) + len(text)/4)
	for _, r := range text {
		switch {
		case n.Clean && r != '\t' && r != '\n' && r != '\r' && (r == utf8.RuneError || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co)):
		case n.Chinese && unicode.Is(chinese, r):
			out.WriteString(" " + string(r) + " ")
		default:
			out.WriteRune(r)
		}
	}
	text = out.String()
	strip := n.Strip == nil && n.Lowercase || n.Strip != nil && *n.Strip
	if strip {
		text = norm.NFD.String(text)
	}
	out.Reset()
	out.Grow(len(text) + len(text)/4)
	for _, r := range text {
		switch {
		case strip && unicode.Is(unicode.Mn, r):
		case unicode.IsPunct(r) || r < utf8.RuneSelf && unicode.IsSymbol(r):
			out.WriteString(" " + string(r) + " ")
		case n.Lowercase && r == 'İ': // the one letter that becomes two
			out.WriteString("i\u0307")
		case n.Lowercase:
			out.WriteRune(unicode.ToLower(r))
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}

// Pieces appends the ids of the longest piece that a word begins with, of the longest that its rest begins with, and so on.
func (t *tokenizer) pieces(ids []int64, word string) []int64 {
	if utf8.RuneCountInString(word) > t.Model.Longest {
		return append(ids, t.Model.Vocab[t.Model.Unknown])
	}
	before, vocabulary := len(ids), t.Model.Vocab
	for word != "" {
		end := len(word)
		id, known := vocabulary[word]
		for !known && end > 0 {
			_, size := utf8.DecodeLastRuneInString(word[:end])
			end -= size
			id, known = vocabulary[word[:end]]
		}
		if end == 0 {
			return append(ids[:before], t.Model.Vocab[t.Model.Unknown])
		}
		ids, word, vocabulary = append(ids, id), word[end:], t.rest
	}
	return ids
}

// What BERT takes for a word each. U+2B820 to U+2B91F are missing there.
var chinese = &unicode.RangeTable{
	R16: []unicode.Range16{{Lo: 0x3400, Hi: 0x4DBF, Stride: 1}, {Lo: 0x4E00, Hi: 0x9FFF, Stride: 1}, {Lo: 0xF900, Hi: 0xFAFF, Stride: 1}},
	R32: []unicode.Range32{
		{Lo: 0x20000, Hi: 0x2A6DF, Stride: 1}, {Lo: 0x2A700, Hi: 0x2B81F, Stride: 1},
		{Lo: 0x2B920, Hi: 0x2CEAF, Stride: 1}, {Lo: 0x2F800, Hi: 0x2FA1F, Stride: 1},
	},
}
