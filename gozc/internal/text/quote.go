// Package text writes what people and programs read as the Python package does, to the letter: two commands say the
// same of the same file.
package text

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Quote returns a text in quotes, as Python's repr has it.
func Quote(text string) string {
	quote := byte('\'')
	if strings.Contains(text, "'") && !strings.Contains(text, `"`) {
		quote = '"'
	}
	var out strings.Builder
	out.WriteByte(quote)
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1: // a byte of a path that is no character
			fmt.Fprintf(&out, `\udc%02x`, text[i])
		case r == rune(quote) || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		default:
			out.WriteString(spelled(r))
		}
		i += size
	}
	out.WriteByte(quote)
	return out.String()
}

// Printable spells out what a terminal would act on, in a text from a file that may not be trusted.
func Printable(text string) string {
	var out strings.Builder
	for _, r := range text {
		out.WriteString(spelled(r))
	}
	return out.String()
}

// spelled returns a character as it is if it can be printed, and as Python escapes it otherwise.
func spelled(r rune) string {
	switch {
	case unicode.IsPrint(r):
		return string(r)
	case r == '\n':
		return `\n`
	case r == '\r':
		return `\r`
	case r == '\t':
		return `\t`
	case r < 0x100:
		return fmt.Sprintf(`\x%02x`, r)
	case r < 0x10000:
		return fmt.Sprintf(`\u%04x`, r)
	}
	return fmt.Sprintf(`\U%08x`, r)
}

// Number returns a number with a comma after each three digits.
func Number(n int64) string {
	digits := fmt.Sprint(n)
	sign := ""
	if digits[0] == '-' {
		sign, digits = "-", digits[1:]
	}
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return sign + digits
}

// Size returns a number of bytes with a unit: 417.8 MiB.
func Size(bytes int64) string {
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	n := float64(bytes)
	for _, unit := range []string{"KiB", "MiB", "GiB"} {
		if n /= 1024; n < 1024 {
			return fmt.Sprintf("%.1f %s", n, unit)
		}
	}
	return fmt.Sprintf("%.1f TiB", n/1024)
}
