package gozc

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/format"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/layout"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/pickle"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/safetensors"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/shm"
)

// errArgument is returned when the caller passes a number that cannot be what it stands for.
var errArgument = errors.New("invalid argument")

// codes gives each error the word that Python knows it by. What is not here comes from the system.
var codes = []struct {
	sentinel error
	code     string
}{
	{format.ErrForeign, "foreign"},
	{format.ErrByteOrder, "foreign"},
	{format.ErrVersion, "version"},
	{format.ErrDamaged, "damaged"},
	{format.ErrNoSums, "version"},
	{format.ErrBase, "base"},
	{pickle.ErrDamaged, "damaged"},
	{safetensors.ErrForeign, "foreign"},
	{safetensors.ErrDamaged, "damaged"},
	{format.ErrInput, "argument"},
	{layout.ErrBlock, "argument"},
	{errArgument, "argument"},
	{shm.ErrMode, "argument"},
	{shm.ErrPrivate, "private"},
	{shm.ErrScarce, "scarce"},
	{shm.ErrNoFile, "nofile"},
	{shm.ErrUnsupported, "unsupported"},
}

// coded puts the code and a colon before the text of an error: gopy hands over the text alone.
func coded(err error) error {
	if err == nil {
		return nil
	}
	for _, known := range codes {
		if errors.Is(err, known.sentinel) {
			return fmt.Errorf("%s: %w", known.code, err)
		}
	}
	return fmt.Errorf("system: %w", err)
}

// recovered ends every exported function. It gives the error its code, and makes one of a panic, which would
// end the Python process.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic: %v\n%s", p, stackTop())
		return
	}
	*err = coded(*err)
}

// stackTop returns the lines of the stack that show where the panic was.
func stackTop() string {
	// A call takes two lines. Skip the title and Stack, stackTop, recovered and panic; show the four innermost others.
	const skip, show = 9, 8
	lines := strings.Split(string(debug.Stack()), "\n")
	lines = lines[min(skip, len(lines)):]
	return strings.Join(lines[:min(show, len(lines))], "\n")
}
