"""An int8 form of a model, written only if it ranks as the model does."""
