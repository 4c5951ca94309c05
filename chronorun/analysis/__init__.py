"""Reading runs; never imports torch."""
