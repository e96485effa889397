package program

import (
	"context"
	"encoding/json"
	"fmt"
)

// Agreed asks unless yes was given. After a "no" it says that the command ends.
func (p *Program) Agreed(ctx context.Context, yes bool, question string) (bool, error) {
	if yes {
		return true, nil
	}
	ok, err := p.Confirm(ctx, question, "-y")
	if err == nil && !ok {
		p.Println("\nExiting...")
	}
	return ok, err
}

// PrintJSON prints v on lines, indented by two.
func (p *Program) PrintJSON(v any) error { return p.encode(v, "  ") }

// PrintCompactJSON prints v on one line.
func (p *Program) PrintCompactJSON(v any) error { return p.encode(v, "") }

func (p *Program) encode(v any, indent string) error {
	enc := json.NewEncoder(p.Out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}
