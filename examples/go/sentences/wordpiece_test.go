//go:build gotorch

package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A piece's id is its place.
var pieces = strings.Fields("[PAD] [UNK] [CLS] [SEP] [MASK] un ##aff ##able ##a a b ##b naive i ##i 中 文 . , ! $ ' ` [ ] mask word ##s é É ##É i\u0307 σ ##σ ##ς ᄀ ##ᅡ ; \u0302 [A] [A]B B")

// settings returns a tokenizer.json: each change is a path of keys, and what comes there.
func settings(t testing.TB, changes map[string]any) []byte {
	t.Helper()
	vocabulary := map[string]any{}
	for id, piece := range pieces {
		vocabulary[piece] = id
	}
	token := func(content string) map[string]any {
		return map[string]any{"id": slices.Index(pieces, content), "content": content, "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false}
	}
	special := func(content string) map[string]any {
		return map[string]any{"SpecialToken": map[string]any{"id": content, "type_id": 0}}
	}
	whole := map[string]any{
		"added_tokens":  []any{token("[CLS]"), token("[SEP]"), token("[MASK]"), token("[A]"), token("[A]B")},
		"normalizer":    map[string]any{"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": nil, "lowercase": true},
		"pre_tokenizer": map[string]any{"type": "BertPreTokenizer"},
		"post_processor": map[string]any{
			"type":   "TemplateProcessing",
			"single": []any{special("[CLS]"), map[string]any{"Sequence": map[string]any{"id": "A", "type_id": 0}}, special("[SEP]")},
			"pair":   []any{},
			"special_tokens": map[string]any{
				"[CLS]": map[string]any{"id": "[CLS]", "ids": []int{2}, "tokens": []string{"[CLS]"}},
				"[SEP]": map[string]any{"id": "[SEP]", "ids": []int{3}, "tokens": []string{"[SEP]"}},
			},
		},
		"model": map[string]any{"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocabulary},
	}
	for path, value := range changes {
		at, keys := whole, strings.Split(path, ".")
		for _, key := range keys[:len(keys)-1] {
			at = at[key].(map[string]any)
		}
		at[keys[len(keys)-1]] = value
	}
	content, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func write(t testing.TB, files map[string][]byte) (folder string) {
	t.Helper()
	folder = t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func tokenizerOf(t testing.TB, changes map[string]any) *tokenizer {
	t.Helper()
	made, err := readTokenizer(write(t, map[string][]byte{"tokenizer.json": settings(t, changes)}))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// What Hugging Face's tokenizers 0.23.3 has for the same file, by their names.
var golden = []struct{ text, tokens string }{
	{"", ""},
	{" \t\r\n\u3000", ""},
	{"unaffable", "un ##aff ##able"},
	{"unaffablex", "[UNK]"},
	{"UNAFFABLE, words!", "un ##aff ##able , word ##s !"},
	{"don't a`b a$b", "[UNK] ' [UNK] a ` b a $ b"},
	{"naïve NAI\u0308VE", "naive naive"},
	{"A\u0300\u0301b", "a ##b"},
	{"\u0301", ""},
	{"中文a文", "中 文 a 文"},
	{"a\U0002b820a a\U0002b920a", "[UNK] a [UNK] a"},
	{"a\u200bb a\x00b a\ufffdb a\x0bb a\u0085b a\ue000b", "a ##b a ##b a ##b a ##b a ##b a ##b"},
	{"a\tb\nb\rb\r\nb", "a b b b b"},
	{"a\u00a0b\u2028b\u2003b", "a b b b"},
	{"🙂", "[UNK]"},
	{"İ", "i"},
	{"ΣΣ", "σ ##σ"}, // though at a word's end it is ς
	{"가", "ᄀ ##ᅡ"},
	{"\u037e", ";"},
	{"[MASK][SEP]a[MASK]s", "[MASK] [SEP] a [MASK] [UNK]"},
	{"[mask] [ MASK] [MA\u200bSK]", "[ mask ] [ mask ] [ mask ]"},
	{"[A]B[A]b", "[A]B [A] b"}, // the longest of the tokens that begin there
	{"##b", "[UNK] [UNK] b"},
	{strings.Repeat("a", 100), "a" + strings.Repeat(" ##a", 99)},
	{strings.Repeat("a", 101) + " b", "[UNK] b"},
	{strings.Repeat("a\u0301", 100), "a" + strings.Repeat(" ##a", 99)},
	{strings.Repeat("σ", 100), "σ" + strings.Repeat(" ##σ", 99)},
}

func named(ids []int64) string {
	names := []string{}
	for _, id := range ids {
		names = append(names, pieces[id])
	}
	return strings.Join(names, " ")
}

func TestEncodeIsHuggingFaces(t *testing.T) {
	tokens := tokenizerOf(t, nil)
	for _, each := range golden {
		got := named(tokens.Encode(each.text))
		if want := strings.Join(strings.Fields("[CLS] "+each.tokens+" [SEP]"), " "); got != want {
			t.Errorf("%q: got %s, want %s", each.text, got, want)
		}
	}
}

func TestEncodeGoesByTheFilesFlags(t *testing.T) {
	for _, each := range []struct {
		flag         string
		value        any
		text, tokens string
	}{
		{"normalizer.lowercase", false, "É é A", "É é [UNK]"}, // which keeps accents, too
		{"normalizer.strip_accents", false, "É é İ", "é é i\u0307"},
		{"normalizer", map[string]any{"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": true, "lowercase": false}, "á Á", "a [UNK]"},
		{"normalizer.handle_chinese_chars", false, "中文 中", "[UNK] 中"},
		{"normalizer.clean_text", false, "a\u200bb a\u0085b", "[UNK] a b"},
		{"model.continuing_subword_prefix", "#", "as ab", "[UNK] [UNK]"},
		{"model.max_input_chars_per_word", 2, "aaa aa", "[UNK] a ##a"},
		{"added_tokens", []any{}, "[MASK]", "[ mask ]"},
	} {
		got := named(tokenizerOf(t, map[string]any{each.flag: each.value}).Encode(each.text))
		if want := "[CLS] " + each.tokens + " [SEP]"; got != want {
			t.Errorf("%s %v, %q: got %s, want %s", each.flag, each.value, each.text, got, want)
		}
	}
}

func TestEncodeLeavesOutATextsEnd(t *testing.T) {
	tokens := tokenizerOf(t, nil)
	if tokens.Limit != 512 {
		t.Errorf("limit %d", tokens.Limit)
	}
	for limit, want := range map[int]string{
		0: "[CLS] [SEP]", 2: "[CLS] [SEP]", 3: "[CLS] b [SEP]", 4: "[CLS] b un [SEP]", 6: "[CLS] b un ##aff ##able [SEP]",
		7: "[CLS] b un ##aff ##able [MASK] [SEP]", 8: "[CLS] b un ##aff ##able [MASK] a [SEP]", 9: "[CLS] b un ##aff ##able [MASK] a [SEP]",
	} {
		tokens.Limit = limit
		if got := named(tokens.Encode("b unaffable[MASK]a")); got != want {
			t.Errorf("limit %d: got %s, want %s", limit, got, want)
		}
	}
}

func TestReadTokenizerKnowsHowLongATextMayBe(t *testing.T) {
	for config, want := range map[string]int{`{"max_seq_length": 256, "do_lower_case": false}`: 256, `{"max_seq_length": null}`: 512} {
		folder := write(t, map[string][]byte{"tokenizer.json": settings(t, nil), "sentence_bert_config.json": []byte(config)})
		tokens, err := readTokenizer(folder)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(tokens.Encode(strings.Repeat("a ", 1000))); got != want {
			t.Errorf("%s: %d tokens", config, got)
		}
	}
}

func TestReadTokenizerRefusesWhatItDoesNotDo(t *testing.T) {
	for _, each := range []struct {
		path  string
		value any
		want  string
	}{
		{"model", map[string]any{"type": "BPE", "vocab": map[string]int{}}, `"BPE"`},
		{"model", map[string]any{"type": "Unigram", "vocab": []any{[]any{"a", 0.5}}}, `"Unigram"`},
		{"model.vocab", []any{[]any{"a", 0.5}}, "vocabulary"},
		{"normalizer", nil, `["WordPiece" "" "BertPreTokenizer" "TemplateProcessing"]`},
		{"normalizer.type", "NFKC", `"NFKC"`},
		{"pre_tokenizer.type", "Metaspace", `"Metaspace"`},
		{"post_processor.type", "RobertaProcessing", `"RobertaProcessing"`},
		{"model.unk_token", "<unk>", `"<unk>"`},
		{"added_tokens", []any{map[string]any{"id": 4, "content": "<mask>", "lstrip": true}}, `"<mask>"`},
		{"added_tokens", []any{map[string]any{"id": 4, "content": "new", "normalized": true}}, `"new"`},
	} {
		folder := write(t, map[string][]byte{"tokenizer.json": settings(t, map[string]any{each.path: each.value})})
		_, err := readTokenizer(folder)
		if err == nil || !strings.Contains(err.Error(), each.want) || !strings.Contains(err.Error(), folder) {
			t.Errorf("%s %v: %v", each.path, each.value, err)
		}
	}
	if _, err := readTokenizer(t.TempDir()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "tokenizer.json") {
		t.Error(err)
	}
}

func FuzzEncode(f *testing.F) {
	for _, text := range []string{"a\xffb", "\xc3", "\xed\xa0\x80[MASK]\xf0\x9f", "[MASK\xff]", "中\xe4\xb8"} {
		f.Add(text)
	}
	tokens := tokenizerOf(f, nil)
	tokens.Limit = 16
	f.Fuzz(func(t *testing.T, text string) {
		ids := tokens.Encode(text)
		if len(ids) < 2 || len(ids) > tokens.Limit || ids[0] != 2 || ids[len(ids)-1] != 3 {
			t.Errorf("%q: %v", text, ids)
		}
		if valid := strings.ToValidUTF8(text, "\ufffd"); !slices.Equal(ids, tokens.Encode(valid)) {
			t.Errorf("%q and %q differ", text, valid)
		}
	})
}
