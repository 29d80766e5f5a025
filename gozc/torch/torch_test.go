//go:build gotorch

package torch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wangkuiyi/gotorch"
	"golang.org/x/sys/unix"
)

// weightOf is a float32 tensor over memory of its own.
func weightOf(name string, values []float32, shape ...int64) Weight {
	bytes := make([]byte, 0, 4*len(values))
	for _, value := range values {
		bytes = binary.LittleEndian.AppendUint32(bytes, math.Float32bits(value))
	}
	stride := make([]int64, len(shape))
	for i, step := len(shape)-1, int64(1); i >= 0; i-- {
		stride[i] = step
		step *= shape[i]
	}
	return Weight{name, "float32", shape, stride, bytes}
}

// tiny are the weights of an MLP whose sums are exact: 2 -> 3 -> 1.
func tiny() []Weight {
	return []Weight{
		weightOf("0.weight", []float32{1, 2, -3, 4, 5, -6}, 3, 2), weightOf("0.bias", []float32{1, 0, -1}, 3),
		weightOf("2.weight", []float32{1, -1, 2}, 1, 3),
	}
}

var config = Config{Heads: 2, Eps: 1e-12, Activation: "gelu", Pooling: "mean", Normalize: true}

// bert are the weights of a small one: 50 words, 8 values, 2 layers, 16 positions; in a pipeline, beside another model.
func bert() []Weight {
	random := rand.New(rand.NewPCG(1, 2))
	found := []Weight{weightOf("head.weight", []float32{1}, 1)}
	add := func(name string, shape ...int64) {
		values := make([]float32, 1)
		for _, n := range shape {
			values = make([]float32, int64(len(values))*n)
		}
		for i := range values {
			values[i] = random.Float32() - 0.5
		}
		found = append(found, weightOf("encoder."+name, values, shape...))
	}
	linear := func(name string, out, in int64) { add(name+".weight", out, in); add(name+".bias", out) }
	add("embeddings.word_embeddings.weight", 50, 8)
	add("embeddings.position_embeddings.weight", 16, 8)
	add("embeddings.token_type_embeddings.weight", 2, 8)
	linear("embeddings.LayerNorm", 8, 1)
	for i := range 2 {
		at := fmt.Sprintf("encoder.layer.%d.", i)
		for _, name := range []string{"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"} {
			linear(at+name, 8, 8)
		}
		linear(at+"attention.output.LayerNorm", 8, 1)
		linear(at+"intermediate.dense", 32, 8)
		linear(at+"output.dense", 8, 32)
		linear(at+"output.LayerNorm", 8, 1)
	}
	for i, each := range found {
		if strings.Contains(each.Name, "LayerNorm") {
			found[i].Shape, found[i].Stride = []int64{8}, []int64{1}
		}
	}
	return found
}

func must[T any](t testing.TB) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func TestMLP(t *testing.T) {
	model := must[*MLP](t)(NewMLP(tiny(), "relu"))
	defer model.Close()
	got := must[[][]float32](t)(model.Forward([][]float32{{1, 1}, {-2, 3}}))
	// 1+2+1, -3+4, 5-6-1 -> 4, 1, 0; -2+6+1, 6+12, -10-18-1 -> 5, 18, 0
	if want := [][]float32{{3}, {-13}}; !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWeightsAreNotCopied(t *testing.T) {
	weights := tiny()
	model := must[*MLP](t)(NewMLP(weights, "relu"))
	defer model.Close()
	copy(weights[2].Bytes, make([]byte, 12))
	got := must[[][]float32](t)(model.Forward([][]float32{{1, 1}}))
	if got[0][0] != 0 {
		t.Errorf("%v is of the weights that were there before", got)
	}
}

func TestNothing(t *testing.T) {
	encoder := must[*Encoder](t)(NewEncoder(bert(), config))
	defer encoder.Close()
	none := must[*MLP](t)(NewMLP([]Weight{weightOf("weight", nil, 0, 2)}, "relu"))
	defer none.Close()
	of := must[*MLP](t)(NewMLP([]Weight{weightOf("weight", nil, 2, 0), weightOf("bias", []float32{1, 2}, 2)}, "relu"))
	defer of.Close()
	for _, each := range []struct {
		got, want [][]float32
	}{
		{must[[][]float32](t)(encoder.Encode(nil)), [][]float32{}},
		{must[[][]float32](t)(of.Forward(nil)), [][]float32{}},
		{must[[][]float32](t)(of.Forward([][]float32{{}, {}})), [][]float32{{1, 2}, {1, 2}}},
		{must[[][]float32](t)(none.Forward([][]float32{{1, 2}, {3, 4}})), [][]float32{{}, {}}},
	} {
		if each.got == nil || !slices.EqualFunc(each.got, each.want, slices.Equal) {
			t.Errorf("got %v, want %v", each.got, each.want)
		}
	}
}

func TestTransposedWeight(t *testing.T) {
	weight := weightOf("weight", []float32{1, 2, 3, 4, 5, 6}, 2, 3)
	weight.Shape, weight.Stride = []int64{3, 2}, []int64{1, 3}
	model := must[*MLP](t)(NewMLP([]Weight{weight}, "relu"))
	defer model.Close()
	got := must[[][]float32](t)(model.Forward([][]float32{{1, 10}}))
	if want := []float32{41, 52, 63}; !slices.Equal(got[0], want) {
		t.Errorf("got %v, want %v", got[0], want)
	}
}

// A sentence's vector does not depend on what else is encoded with it, but for the rounding.
func TestPaddingIsNotSeen(t *testing.T) {
	for _, pooling := range []string{"mean", "cls"} {
		with := config
		with.Pooling = pooling
		model := must[*Encoder](t)(NewEncoder(bert(), with))
		short, long := []int64{1, 2, 3}, []int64{4, 5, 6, 7, 8, 9, 10}
		both := must[[][]float32](t)(model.Encode([][]int64{short, long}))
		alone := must[[][]float32](t)(model.Encode([][]int64{short}))
		sum := 0.0
		for i, value := range alone[0] {
			if math.Abs(float64(both[0][i]-value)) > 1e-6 {
				t.Errorf("%s: %v beside a longer one, %v alone", pooling, both[0], alone[0])
				break
			}
			sum += float64(value) * float64(value)
		}
		if math.Abs(sum-1) > 1e-6 {
			t.Errorf("%s: the vector's length is %v", pooling, math.Sqrt(sum))
		}
		if slices.Equal(both[0], both[1]) {
			t.Errorf("%s: two sentences, one vector", pooling)
		}
		model.Close()
	}
}

// gotorch alone lets the collector free operands that libtorch is still reading. make gotorch sets MALLOC_PERTURB_, so that
// freed memory is other memory.
func TestCollectorAndManyCallers(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1))
	model := must[*Encoder](t)(NewEncoder(bert(), config))
	defer model.Close()
	other := must[*Encoder](t)(NewEncoder(bert(), config))
	defer other.Close()
	sentences := [][]int64{{1, 2, 3}, {4, 5, 6, 7}, {49}}
	want := must[[][]float32](t)(model.Encode(sentences))
	stop := make(chan struct{})
	var collector, callers sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	})
	for i := range 4 {
		callers.Go(func() {
			encoder := []*Encoder{model, other}[i%2]
			for range 100 {
				got, err := encoder.Encode(sentences)
				if err != nil || !slices.EqualFunc(got, want, slices.Equal) {
					t.Errorf("got %v (%v), want %v", got, err, want)
					return
				}
			}
		})
	}
	callers.Wait()
	close(stop)
	collector.Wait()
}

// Every call makes two matrices of 4 MB, and the collector, which does not see them, has no reason to run.
func TestMemoryIsFreedWithoutTheCollector(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	weights := []Weight{weightOf("a.weight", make([]float32, 1024), 1024, 1), weightOf("b.weight", make([]float32, 1024), 1, 1024)}
	model := must[*MLP](t)(NewMLP(weights, "relu"))
	defer model.Close()
	inputs := make([][]float32, 1024)
	for i := range inputs {
		inputs[i] = make([]float32, 1)
	}
	var before int64
	for i := range 100 {
		must[[][]float32](t)(model.Forward(inputs))
		if i == 20 {
			before = resident(t)
		}
	}
	if grown := resident(t) - before; grown > 100<<20 {
		t.Errorf("80 calls left %d MB", grown>>20)
	}
}

func resident(t *testing.T) int64 {
	var pages, resident int64
	said := must[[]byte](t)(os.ReadFile("/proc/self/statm"))
	if _, err := fmt.Sscan(string(said), &pages, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}

func TestClose(t *testing.T) {
	threads := func() int { return len(must[[]os.DirEntry](t)(os.ReadDir("/proc/self/task"))) }
	model := must[*MLP](t)(NewMLP(tiny(), "relu"))
	before := threads()
	for range 50 {
		each := must[*MLP](t)(NewMLP(tiny(), "relu"))
		must[[][]float32](t)(each.Forward([][]float32{{1, 1}}))
		each.Close()
		each.Close()
	}
	for end := time.Now().Add(10 * time.Second); threads() > before+20; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("50 models that were closed left %d threads", threads()-before)
		}
	}
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for {
				if _, err := model.Forward([][]float32{{1, 1}}); err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	model.Close() // while they call
	callers.Wait()
}

func TestThreads(t *testing.T) {
	for _, n := range []int{-1, 0, 2, 1} { // libtorch ends a process that asks for less than one
		SetThreads(n)
		model := must[*MLP](t)(NewMLP(tiny(), "relu"))
		must[[][]float32](t)(model.Forward([][]float32{{1, 1}}))
		model.Close()
	}
}

// libtorch keeps threads and memory for each thread that it was ever called from.
func TestAModelHasOneThread(t *testing.T) {
	model := must[*MLP](t)(NewMLP(tiny(), "relu"))
	defer model.Close()
	var found sync.Map
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 100 {
				_ = model.run(func(*Scope) error { found.Store(unix.Gettid(), true); return nil })
				runtime.Gosched()
			}
		})
	}
	callers.Wait()
	n := 0
	found.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("800 calls ran on %d threads", n)
	}
}

// MKL, asked first by a thread that was told nothing, takes all processors, and rounds otherwise.
func TestEachThreadIsTold(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	values := func(n int) []float32 {
		made := make([]float32, n)
		for i := range made {
			made[i] = random.Float32() - 0.5
		}
		return made
	}
	weight, input := weightOf("weight", values(64*64), 64, 64), values(7*64)
	on := func(prepare func()) (got []float32) {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread is a new one, and ends
			prepare()
			done <- Do(func(s *Scope) error {
				got = s.Linear(Copied(s, input, 7, 64), s.Over(weight), Tensor{}).Read()
				return nil
			})
		}()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		return got
	}
	SetThreads(1)
	want := on(func() { gotorch.SetNumThreads(1) })
	if !slices.Equal(on(func() {}), want) {
		t.Error("a thread that was told nothing computes otherwise")
	}
}

func TestErrors(t *testing.T) {
	mlp := must[*MLP](t)(NewMLP(tiny(), "relu"))
	defer mlp.Close()
	encoder := must[*Encoder](t)(NewEncoder(bert(), config))
	defer encoder.Close()
	forward := func(rows ...[]float32) func() error {
		return func() error { _, err := mlp.Forward(rows); return err }
	}
	encode := func(sentences ...[]int64) func() error {
		return func() error { _, err := encoder.Encode(sentences); return err }
	}
	layers := func(change func([]Weight) []Weight) func() error {
		return func() error { _, err := NewMLP(change(tiny()), "relu"); return err }
	}
	one := func(name string, change func(*Weight)) func() error {
		return func() error {
			weights := bert()
			for i := range weights {
				if weights[i].Name == name {
					change(&weights[i])
				}
			}
			_, err := NewEncoder(weights, config)
			return err
		}
	}
	with := func(change func(*Config)) func() error {
		return func() error {
			changed := config
			change(&changed)
			_, err := NewEncoder(bert(), changed)
			return err
		}
	}
	scope := func(work func(*Scope)) func() error {
		return func() error { return Do(func(s *Scope) error { work(s); return nil }) }
	}
	const query = "encoder.encoder.layer.1.attention.self.query.weight"
	for _, each := range []struct {
		kind error
		says string
		of   func() error
	}{
		{ErrInput, "row 1 has 3 values, and the model takes 2", forward([]float32{1, 2}, []float32{1, 2, 3})},
		{ErrInput, "sentence 1 has 0 tokens, expected 1 to 16", encode([]int64{1}, nil)},
		{ErrInput, "sentence 0 has 17 tokens, expected 1 to 16", encode(make([]int64, 17))},
		{ErrInput, "sentence 0 has the token 50, expected 0 to 49", encode([]int64{50})},
		{ErrInput, "sentence 0 has the token -1, expected 0 to 49", encode([]int64{-1})},
		{ErrModel, "there are no tensors", layers(func([]Weight) []Weight { return nil })},
		{ErrModel, `"2.weight" takes 3 values, and "0.weight" before it gives 2`, layers(func(w []Weight) []Weight {
			w[0].Shape, w[0].Stride = []int64{2, 3}, []int64{3, 1}
			return []Weight{w[0], w[2]}
		})},
		{ErrModel, `"0.bias" of shape [3] is neither the weight of a linear layer nor the bias of the one before it`,
			layers(func(w []Weight) []Weight { return w[1:] })},
		{ErrModel, `"1.weight" of shape [2] is neither`, layers(func(w []Weight) []Weight {
			return append(w[:2], weightOf("1.weight", make([]float32, 2), 2)) // a BatchNorm's
		})},
		{ErrDtype, `"0.weight" is float64: models run in`, layers(func(w []Weight) []Weight { w[0].Dtype = "float64"; return w })},
		{ErrDtype, `"0.weight" is float32 and "0.bias" is float16`, layers(func(w []Weight) []Weight { w[1].Dtype = "float16"; return w })},
		{ErrModel, `"0.weight" has 20 bytes, and its shape [3 2] with stride [2 1] reaches beyond`,
			layers(func(w []Weight) []Weight { w[0].Bytes = w[0].Bytes[:20]; return w })},
		{ErrModel, "reaches beyond", layers(func(w []Weight) []Weight { w[0].Stride[0] = math.MaxInt64; return w })},
		{ErrModel, "reaches beyond", layers(func(w []Weight) []Weight { w[0].Stride[0] = -2; return w })},
		{ErrModel, "reaches beyond", layers(func(w []Weight) []Weight { w[0].Stride = nil; return w })},
		{ErrModel, "no multiple of 4, where no float32 may lie",
			layers(func(w []Weight) []Weight { w[0].Bytes = append(make([]byte, 1, 30), w[0].Bytes...)[1:]; return w })},
		{ErrConfig, `"swish" is no activation; there are gelu, `, func() error { _, err := NewMLP(tiny(), "swish"); return err }},
		{ErrConfig, `"" is no activation`, with(func(c *Config) { c.Activation = "" })},
		{ErrConfig, "3 heads, which share 8 values", with(func(c *Config) { c.Heads = 3 })},
		{ErrConfig, "0 heads", with(func(c *Config) { c.Heads = 0 })},
		{ErrConfig, `pooling is "max", expected mean or cls`, with(func(c *Config) { c.Pooling = "max" })},
		{ErrModel, "0 tensors are called embeddings.word_embeddings.weight", func() error { _, err := NewEncoder(tiny(), config); return err }},
		{ErrModel, "2 tensors are called embeddings.word_embeddings.weight",
			one("head.weight", func(w *Weight) { w.Name = "embeddings.word_embeddings.weight" })},
		{ErrModel, `there is no tensor "` + query, one(query, func(w *Weight) { w.Name = "another" })},
		{ErrModel, `is of shape [4 16], expected [8 8]`, one(query, func(w *Weight) { w.Shape = []int64{4, 16} })},
		{ErrDtype, `"` + query + `" is bfloat16, and "encoder.embeddings.word_embeddings.weight" is float32`,
			one(query, func(w *Weight) { w.Dtype = "bfloat16" })},
		{ErrModel, `"encoder.encoder.layer.1.`, with(func(c *Config) { c.Layers = 1 })}, // a file of another model
		{ErrModel, `there is no tensor "encoder.encoder.layer.2.`, with(func(c *Config) { c.Layers = 3 })},
		{ErrModel, `"encoder.encoder.layer.3.x" is no part of the BERT`, one("head.weight", func(w *Weight) { w.Name = "encoder.encoder.layer.3.x" })},
		{ErrModel, `"encoder.embeddings.lora.weight" is no part of the BERT`, one("head.weight", func(w *Weight) { w.Name = "encoder.embeddings.lora.weight" })},
		{ErrTorch, "mat1 and mat2 shapes cannot be multiplied (1x2 and 3x1)", scope(func(s *Scope) {
			s.Linear(Copied(s, []float32{1, 2}, 1, 2), Copied(s, []float32{1, 2, 3}, 1, 3), Tensor{})
		})},
		{ErrTorch, "libtorch: ", scope(func(s *Scope) { s.Add(Copied(s, []float32{1, 2}, 2), Copied(s, []float32{1, 2, 3}, 3)) })},
		{ErrDtype, "float8_e4m3fn, which gotorch does not know", scope(func(s *Scope) {
			s.Over(Weight{"w", "float8_e4m3fn", []int64{1}, []int64{1}, []byte{0}})
		})},
		{ErrInput, "2 values for a tensor of shape [3]", scope(func(s *Scope) { Copied(s, []int64{1, 2}, 3) })},
	} {
		err := each.of()
		if !errors.Is(err, each.kind) || !strings.Contains(err.Error(), each.says) {
			t.Errorf("got %q, want one of kind %q that says %q", err, each.kind, each.says)
		} else if strings.ContainsAny(err.Error(), "\n\r") {
			t.Errorf("several lines: %q", err)
		}
	}
}

// A mistake of the program's is not an error of the model's.
func TestTensorsEndWithTheirScope(t *testing.T) {
	var late Tensor
	var over *Scope
	if err := Do(func(s *Scope) error { late, over = Copied(s, []float32{1}, 1), s; return nil }); err != nil {
		t.Fatal(err)
	}
	for name, use := range map[string]func(){
		"as an operand": func() { _ = Do(func(s *Scope) error { s.ReLU(late); return nil }) },
		"read":          func() { late.Read() },
		"shape":         func() { late.Shape() },
		"in its scope":  func() { Copied(over, []float32{1}, 1) },
		"on a thread": func() {
			_ = must[*module](t)(newModule("float32", func(*Scope) error { return nil })).run(func(s *Scope) error { s.ReLU(late); return nil })
		},
	} {
		func() {
			defer func() {
				if said, _ := recover().(string); !strings.Contains(said, "Scope that has ended") {
					t.Errorf("%s: %q", name, said)
				}
			}()
			use()
		}()
	}
}

func TestReadConfig(t *testing.T) {
	const modules = `[{"type": "sentence_transformers.models.Transformer", "path": ""},
		{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}, {"type": "a.b.Normalize", "path": "2"}]`
	folder := func(files map[string]string) string {
		made := t.TempDir()
		for name, text := range files {
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(made, name)), 0o755), os.WriteFile(filepath.Join(made, name), []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		return made
	}
	plain := map[string]string{"config.json": `{"model_type": "bert", "num_attention_heads": 2, "layer_norm_eps": 1e-5, "hidden_act": "relu"}`}
	plus := func(files map[string]string) map[string]string {
		all := maps.Clone(plain)
		maps.Copy(all, files)
		return all
	}
	for _, each := range []struct {
		files map[string]string
		want  Config
	}{
		{plain, Config{12, 2, 1e-5, "relu", 0, "mean", false}},
		{map[string]string{"config.json": `{"model_type": "bert"}`}, Config{12, 12, 1e-12, "gelu", 0, "mean", false}},
		{plus(map[string]string{"modules.json": modules, "1_Pooling/config.json": `{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}`,
			"sentence_bert_config.json": `{"max_seq_length": 256}`}), Config{12, 2, 1e-5, "relu", 256, "cls", true}},
		{plus(map[string]string{"modules.json": modules, "1_Pooling/config.json": `{"pooling_mode": "mean", "embedding_dimension": 8}`}),
			Config{12, 2, 1e-5, "relu", 0, "mean", true}},
	} {
		if got, err := ReadConfig(folder(each.files)); err != nil || got != each.want {
			t.Errorf("got %v (%v), want %v", got, err, each.want)
		}
	}
	for _, each := range []struct {
		files map[string]string
		says  string
	}{
		{map[string]string{"config.json": `{`}, "unexpected end of JSON"},
		{map[string]string{"config.json": `{"model_type": "roberta"}`}, `model_type is "roberta"`},
		{map[string]string{"config.json": `{"model_type": "bert", "position_embedding_type": "relative_key"}`}, `position_embedding_type is "relative_key"`},
		{map[string]string{"config.json": `{"model_type": "bert", "hidden_act": "gelu_new"}`}, `hidden_act is "gelu_new", expected one of gelu, `},
		{map[string]string{"config.json": `{"model_type": "bert", "is_decoder": true}`}, "is_decoder is true"},
		{map[string]string{"config.json": `{"model_type": "bert", "num_hidden_layers": 0}`}, "num_hidden_layers is 0"},
		{plus(map[string]string{"modules.json": strings.Replace(modules, "a.b.Normalize", "a.b.Dense", 1), "1_Pooling/config.json": `{"pooling_mode": "mean"}`}),
			`number 2 of the modules is "a.b.Dense"`},
		{plus(map[string]string{"modules.json": strings.Replace(modules, "1_Pooling", "../elsewhere", 1)}), `("../elsewhere")`},
		{plus(map[string]string{"modules.json": modules, "1_Pooling/config.json": `{"pooling_mode_max_tokens": true}`}), "pooling is pooling_mode_max_tokens"},
		{plus(map[string]string{"modules.json": modules, "1_Pooling/config.json": `{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}`}), "pooling is cls, mean"},
		{plus(map[string]string{"modules.json": modules, "1_Pooling/config.json": `{"pooling_mode": ["cls", "mean"]}`}), "several at once"},
	} {
		if got, err := ReadConfig(folder(each.files)); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), each.says) {
			t.Errorf("got %v (%v), want an ErrConfig that says %s", got, err, each.says)
		}
	}
	if _, err := ReadConfig(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of an empty folder: %v", err)
	}
}

func ExampleDo() {
	weight := weightOf("weight", []float32{1, 2, 3, 4}, 2, 2) // of image.Open and Weights, as a rule
	err := Do(func(s *Scope) error {
		input := Copied(s, []float32{1, 10}, 1, 2)
		fmt.Println(s.ReLU(s.Linear(input, s.Over(weight), Tensor{})).Read())
		return nil
	})
	fmt.Println(err)
	// Output:
	// [21 43]
	// <nil>
}
