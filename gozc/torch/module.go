//go:build gotorch

package torch

// A module is what every model has: its weights as tensors, and the thread on which it runs.
type module struct {
	thread *thread
	scope  *Scope // of its weights
	dtype  string
}

// newModule begins a model; build makes tensors of its weights.
func newModule(dtype string, build func(*Scope) error) (*module, error) {
	m := &module{newThread(), new(Scope), dtype}
	if err := m.thread.do(func() error { return m.scope.try(build) }); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// run gives work a scope on the model's thread.
func (m *module) run(work func(*Scope) error) error {
	return m.thread.do(func() error { return Do(work) })
}

// Close frees what the model has, and waits for the calls that have begun. Those that come later return ErrClosed. The weights'
// bytes are the caller's.
func (m *module) Close() { m.thread.close(m.scope.end) }

// rows cuts the elements of a matrix into its rows, of which there is at least one.
func rows(values []float32, count int) [][]float32 {
	found, width := make([][]float32, count), len(values)/count
	for i := range found {
		found[i] = values[i*width:][:width:width]
	}
	return found
}
