// Package kind makes errors of a kind: what errors.Is goes by is one of a few, and what people read is the case at hand alone.
package kind

import "fmt"

type of struct {
	error
	kind error
}

func (e of) Unwrap() error { return e.kind }

// Of returns an error of a kind, whose text does not name it.
func Of(kind error, format string, values ...any) error {
	return of{fmt.Errorf(format, values...), kind}
}
