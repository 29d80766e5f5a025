//go:build gotorch

package torch

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/kind"
)

// A Config is what an Encoder has to know that is not in its weights.
type Config struct {
	Layers     int64   // 0: as many as there are weights of
	Heads      int64   // of each layer's attention
	Eps        float64 // of the layer norms
	Activation string  // one of Activations
	MaxTokens  int     // the longest sentence to be taken; 0: as many as there are positions
	Pooling    string  // "mean" over a sentence's tokens, or "cls": its first one
	Normalize  bool    // whether vectors have the length 1
}

// ReadConfig reads the files that transformers and sentence-transformers write beside a model: config.json, and, where they
// are there, modules.json, the pooling's config.json and sentence_bert_config.json. Without modules.json vectors are the mean
// over a sentence's tokens, as sentence-transformers has it.
//
// The error is an ErrConfig, or an *fs.PathError.
func ReadConfig(folder string) (Config, error) {
	path := filepath.Join(folder, "config.json")
	said := struct {
		ModelType  string  `json:"model_type"`
		Positions  string  `json:"position_embedding_type"`
		Activation string  `json:"hidden_act"`
		Layers     int64   `json:"num_hidden_layers"`
		Heads      int64   `json:"num_attention_heads"`
		Eps        float64 `json:"layer_norm_eps"`
		IsDecoder  bool    `json:"is_decoder"`
	}{Positions: "absolute", Activation: "gelu", Layers: 12, Heads: 12, Eps: 1e-12} // transformers' own, for what is not said
	if err := readJSON(path, &said); err != nil {
		return Config{}, err
	}
	_, known := activations[said.Activation]
	switch {
	case said.ModelType != "bert":
		return Config{}, kind.Of(ErrConfig, "%s: model_type is %q, and only \"bert\" is an encoder here", path, said.ModelType)
	case said.Positions != "absolute":
		return Config{}, kind.Of(ErrConfig, "%s: position_embedding_type is %q, expected \"absolute\"", path, said.Positions)
	case said.IsDecoder:
		return Config{}, kind.Of(ErrConfig, "%s: is_decoder is true, and this is an encoder", path)
	case said.Layers < 1:
		return Config{}, kind.Of(ErrConfig, "%s: num_hidden_layers is %d, expected 1 or more", path, said.Layers)
	case !known:
		return Config{}, kind.Of(ErrConfig, "%s: hidden_act is %q, expected one of %s", path, said.Activation, strings.Join(Activations(), ", "))
	}
	config := Config{Layers: said.Layers, Heads: said.Heads, Eps: said.Eps, Activation: said.Activation, Pooling: "mean"}
	return config, config.readSentences(folder)
}

// readSentences reads what sentence-transformers does behind the model.
func (c *Config) readSentences(folder string) error {
	var modules []struct{ Type, Path string }
	path := filepath.Join(folder, "modules.json")
	if err := readJSON(path, &modules); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for i, each := range modules {
		switch name := each.Type[strings.LastIndexByte(each.Type, '.')+1:]; {
		case i == 0 && name == "Transformer" && each.Path == "":
		case i == 1 && name == "Pooling" && filepath.IsLocal(each.Path):
			if err := c.readPooling(filepath.Join(folder, each.Path, "config.json")); err != nil {
				return err
			}
		case i == 2 && name == "Normalize":
			c.Normalize = true
		default:
			return kind.Of(ErrConfig, "%s: number %d of the modules is %q (%q), expected Transformer, Pooling and, at most, Normalize",
				path, i, each.Type, each.Path)
		}
	}
	var limit struct {
		Length int `json:"max_seq_length"`
	}
	if err := readJSON(filepath.Join(folder, "sentence_bert_config.json"), &limit); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.MaxTokens = limit.Length
	return nil
}

// readPooling reads which of a sentence's tokens make its vector: by name, or, until version 5, by one flag for each way.
func (c *Config) readPooling(path string) error {
	said := map[string]any{}
	if err := readJSON(path, &said); err != nil {
		return err
	}
	flags := map[string]string{"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
	asked := map[string]bool{}
	for key, value := range said {
		switch name, mode := value.(string); {
		case key == "pooling_mode" && mode:
			asked[name] = true
		case key == "pooling_mode":
			asked["several at once"] = true
		case value == true && strings.HasPrefix(key, "pooling_mode_"):
			name, known := flags[key]
			if !known {
				name = key
			}
			asked[name] = true
		}
	}
	modes := slices.Sorted(maps.Keys(asked))
	if len(modes) == 0 {
		modes = []string{"mean"}
	}
	if len(modes) > 1 || !slices.Contains([]string{"mean", "cls"}, modes[0]) {
		return kind.Of(ErrConfig, "%s: pooling is %s, expected mean or cls", path, strings.Join(modes, ", "))
	}
	c.Pooling = modes[0]
	return nil
}

func readJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return kind.Of(ErrConfig, "%s: %v", path, err)
	}
	return nil
}
