package text

import "testing"

// What Python 3.12 gives for repr of the same texts.
func TestTextsAreQuotedAsByPython(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "''",
		"a b":                   "'a b'",
		"it's":                  `"it's"`,
		`it's "so"`:             `'it\'s "so"'`,
		"a\\b":                  `'a\\b'`,
		"\n\r\t\x00\x7f":        `'\n\r\t\x00\x7f'`,
		"tür\u00a0\u200b":       `'tür\xa0\u200b'`,
		"\U000e0001":            `'\U000e0001'`,
		"caf\xe9":               `'caf\udce9'`,
		"\u2028 and \U0001f600": `'\u2028 and 😀'`,
	} {
		if got := Quote(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestNothingThatATerminalActsOnIsLeft(t *testing.T) {
	if got, want := Printable("tür\x07\u009b\\'"), `tür\x07\x9b\'`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestNumbersAndSizes(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567"} {
		if got := Number(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1280: "1.2 KiB", 438 << 20: "438.0 MiB", 3 << 30: "3.0 GiB", 5 << 40: "5.0 TiB",
	} {
		if got := Size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
