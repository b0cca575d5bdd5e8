"The related systems, a module each: leaves, which the main line never imports."
