package term

// A Style is a list of SGR parameters, as in "1;31". The zero value is plain text.
type Style string

// The styles in use. Numbers above 16 are of the 256-colour palette.
const (
	Plain     Style = ""
	Bold      Style = "1"
	Dim       Style = "2"
	Secondary Style = "38;5;246"
	Warning   Style = "33"
	Error     Style = "31"
	Code      Style = "1;38;5;78"
	Purple    Style = "35"

	BoldWhite Style = "1;37"
	BoldGrey  Style = "1;38;5;244"
	Grey      Style = "38;5;244"
	BoldBlue  Style = "1;38;5;39"
	BoldGreen Style = "1;38;5;78"
	IndianRed Style = "38;5;203"
	Gold      Style = "38;5;220"
)

// Paint returns s in style, or s itself where colours are off.
func (t *IO) Paint(style Style, s string) string {
	if !t.Color || style == Plain || s == "" {
		return s
	}
	return "\x1b[" + string(style) + "m" + s + "\x1b[0m"
}
