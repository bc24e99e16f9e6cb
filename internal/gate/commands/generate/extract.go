package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/scope-registry/scope-registry/internal/gate/commands/valkey"
)

// source is one command in a file of Valkey's src/commands.
type source struct {
	Container string            `json:"container"`
	Group     string            `json:"group"`
	Since     string            `json:"since"`
	Arity     int               `json:"arity"`
	Flags     []string          `json:"command_flags"`
	Tips      []string          `json:"command_tips"`
	Keys      []valkey.KeySpec  `json:"key_specs"`
	Arguments []valkey.Argument `json:"arguments"`
}

// extract reads the files in a checkout of Valkey and writes what the table is made from, a line for each command.
func extract(dir, out string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("there are no descriptions of commands in %s; name the folder src/commands of Valkey", dir)
	}
	var all []valkey.Command
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		// One file has the word where others have the value.
		text = bytes.ReplaceAll(text, []byte(`"true"`), []byte(`true`))
		var commands map[string]source
		if err := json.Unmarshal(text, &commands); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for name, s := range commands {
			if s.Container != "" {
				name = s.Container + "|" + name
			}
			if slices.Contains(s.Flags, "ONLY_SENTINEL") {
				continue // a Sentinel is no store
			}
			all = append(all, valkey.Command{Name: name, Group: s.Group, Since: s.Since, Arity: s.Arity,
				Flags: s.Flags, Tips: s.Tips, Keys: s.Keys, Arguments: s.Arguments})
		}
	}
	slices.SortFunc(all, func(a, b valkey.Command) int { return strings.Compare(a.Name, b.Name) })
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	encoder.SetEscapeHTML(false)
	for _, c := range all {
		if err := encoder.Encode(c); err != nil {
			return err
		}
	}
	return os.WriteFile(out, lines.Bytes(), 0o644) //nolint:gosec // a source file is read by everybody
}
