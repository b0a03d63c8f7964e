//! IR, operators, observers, quantizers, passes and the plug-in contract of lowbit.
