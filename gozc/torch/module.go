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

// rows cuts the elements of a matrix into its rows.
func rows(values []float32, width int64) [][]float32 {
	found := make([][]float32, 0, int64(len(values))/max(1, width))
	for ; int64(len(values)) >= width && width > 0; values = values[width:] {
		found = append(found, values[:width:width])
	}
	return found
}
