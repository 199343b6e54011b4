"""Commands about the kernels: what this machine offers, what the compiler makes of each kernel."""
