package text

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Table gives rows under a head as lines of text; the columns that are named in right are flush right.
func Table(head []string, rows [][]string, right ...string) string {
	rows = append([][]string{head}, rows...)
	widths := make([]int, len(head))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	lines := make([]string, len(rows))
	for n, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if slices.Contains(right, head[i]) {
				cells[i] = space + cell
			} else {
				cells[i] = cell + space
			}
		}
		lines[n] = strings.TrimRight(strings.Join(cells, "  "), " ")
	}
	return strings.Join(lines, "\n")
}
